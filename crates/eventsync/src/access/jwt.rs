//! Principals by JSON Web Token (RFC 7519): signed by a shared secret for development, else by a key of a set (RFC 7517).
//!
//! `sub` is the name, `aud` must name this server, `exp` must be there, `nbf` counts if it is. What may be done is in
//! `grants`: `[{"documents": "club:*", "rights": ["read", "write"]}]`. Without it, nothing may be done.

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{Authorizer, Grant, NotAuthenticated, Principal};

/// The shortest secret in bytes: as long as the digest, RFC 7518 section 3.2.
pub const SECRET_BYTES_MIN: usize = 32;
/// How many keys a set has. A set with more is refused.
const KEYS_MAX: usize = 64;
/// How far the clocks of whoever makes tokens and of this machine may be apart.
const LEEWAY_MS: u64 = 30_000;

/// Keys that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// A secret that can be guessed.
    #[error("a secret of {len} bytes, at least {SECRET_BYTES_MIN} are needed")]
    ShortSecret {
        /// Its length in bytes.
        len: usize,
    },
    /// Not the JSON of a key set.
    #[error("not a JSON Web Key Set: {0}")]
    NotASet(serde_json::Error),
    /// A key of the set.
    #[error("key {at} of the set: {reason}")]
    Key {
        /// Which one, from 0.
        at: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many or none.
    #[error("{0} keys that sign, 1 to {KEYS_MAX} are allowed")]
    Count(usize),
}

/// What tokens are checked against.
pub struct JwtKeys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtKeys {
    /// A secret that whoever makes tokens has too: HS256.
    pub fn secret(secret: &[u8]) -> Result<Self, JwtError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(JwtError::ShortSecret { len: secret.len() });
        }
        let key = DecodingKey::from_secret(secret);
        Ok(Self(vec![Key { id: None, algorithm: Algorithm::HS256, key }]))
    }

    /// The public keys of a JSON Web Key Set: RSA (RS256 unless `alg` says RS384, RS512 or PS256 to PS512), P-256
    /// (ES256), P-384 (ES384), Ed25519 (EdDSA). Keys for encryption and of other kinds are passed over; secrets are
    /// refused, since a public document is no place for them.
    pub fn set(json: &[u8]) -> Result<Self, JwtError> {
        let set: JwkSet = serde_json::from_slice(json).map_err(JwtError::NotASet)?;
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
                continue;
            }
            let wrong = |reason: String| JwtError::Key { at, reason };
            let Some(algorithm) = algorithm_of(jwk).map_err(wrong)? else { continue };
            let key = DecodingKey::from_jwk(jwk).map_err(|error| wrong(error.to_string()))?;
            keys.push(Key { id: jwk.common.key_id.clone(), algorithm, key });
        }
        if !(1..=KEYS_MAX).contains(&keys.len()) {
            return Err(JwtError::Count(keys.len()));
        }
        Ok(Self(keys))
    }

    /// The keys that a token of this head can be signed by. A token that names none fits all of its algorithm.
    fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let fits = move |key: &&Key| {
            key.algorithm == algorithm && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        };
        self.0.iter().filter(fits)
    }
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.iter().map(|key| (key.id.as_deref(), key.algorithm));
        f.debug_list().entries(keys).finish()
    }
}

/// What a key is for, `None` if it is of a kind that is not known here (RFC 7517 section 5). It is never what a token
/// says: else a public key could pass as a secret.
fn algorithm_of(jwk: &Jwk) -> Result<Option<Algorithm>, String> {
    let named = jwk.common.key_algorithm;
    let named = named.map(Algorithm::try_from).transpose().map_err(|_| format!("algorithm {named:?}"))?;
    let possible: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        AlgorithmParameters::OctetKey(_) => return Err("a secret, expected a public key".to_owned()),
        _ => return Ok(None),
    };
    match named {
        None => Ok(Some(possible[0])),
        Some(named) if possible.contains(&named) => Ok(Some(named)),
        Some(named) => Err(format!("{named:?} is not an algorithm of such a key")),
    }
}

/// Lets in who has a token that one of its keys has signed.
#[derive(Debug)]
pub struct JwtAuthorizer {
    audience: String,
    // Looked at for each token, exchanged when keys are; never across an await.
    keys: RwLock<Arc<JwtKeys>>,
}

/// What of a token's claims counts here; the audience is compared by the library.
#[derive(Debug, Deserialize, Serialize)]
struct Claims {
    sub: String,
    exp: f64,
    #[serde(default)]
    nbf: f64,
    #[serde(default)]
    grants: Vec<Grant>,
}

/// Makes a token under a shared secret, for development and tests: whoever has the secret can make any. `exp_s`: seconds
/// since 1970 UTC.
pub fn sign(secret: &[u8], name: &str, audience: &str, grants: Vec<Grant>, exp_s: u64) -> String {
    #[derive(Serialize)]
    struct Meant<'a> {
        aud: &'a str,
        #[serde(flatten)]
        claims: Claims,
    }
    let claims = Claims { sub: name.to_owned(), exp: exp_s as f64, nbf: 0.0, grants };
    let meant = Meant { aud: audience, claims };
    encode(&Header::new(Algorithm::HS256), &meant, &EncodingKey::from_secret(secret))
        .expect("text and numbers can be written as JSON, and a digest of any key be made")
}

impl JwtAuthorizer {
    /// For tokens that are meant for this audience.
    pub fn new(keys: JwtKeys, audience: impl Into<String>) -> Self {
        Self { audience: audience.into(), keys: RwLock::new(Arc::new(keys)) }
    }

    /// Goes on with other keys. Who was let in stays until the token expires.
    pub fn set_keys(&self, keys: JwtKeys) {
        *self.keys.write() = Arc::new(keys);
    }

    /// Who shows this token at this time.
    pub fn principal(&self, token: &str, now_ms: u64) -> Result<Principal, NotAuthenticated> {
        let header = decode_header(token).map_err(|_| invalid("not a signed JSON Web Token"))?;
        let keys = Arc::clone(&self.keys.read());
        let mut refused = None;
        for key in keys.fitting(header.kid.as_deref(), header.alg) {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(token) => return named(token.claims, now_ms),
                Err(error) => refused = Some(error),
            }
        }
        let error = refused.ok_or_else(|| invalid("signed with a key that is not known here"))?;
        Err(invalid(&match error.kind() {
            ErrorKind::InvalidSignature => "the signature is wrong".to_owned(),
            ErrorKind::InvalidAudience => format!("not meant for {}", self.audience),
            ErrorKind::MissingRequiredClaim(name) => format!("without {name}"),
            ErrorKind::Json(error) => error.to_string(),
            _ => "it can't be read".to_owned(),
        }))
    }

    /// The signature and the audience. Times are compared with the caller's clock afterwards.
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.required_spec_claims = HashSet::from(["aud".to_owned()]);
        validation.set_audience(&[&self.audience]);
        validation
    }
}

fn named(claims: Claims, now_ms: u64) -> Result<Principal, NotAuthenticated> {
    let ms = |name: &str, seconds: f64| match seconds {
        // Until the year 4000, where milliseconds are whole numbers in a float.
        0.0..=64_060_588_800.0 => Ok((seconds * 1000.0) as u64),
        _ => Err(invalid(&format!("{name} of {seconds} is not a time in seconds"))),
    };
    if ms("nbf", claims.nbf)? > now_ms + LEEWAY_MS {
        return Err(invalid("not valid yet"));
    }
    let end = ms("exp", claims.exp)? + LEEWAY_MS;
    if end <= now_ms {
        return Err(NotAuthenticated::Expired);
    }
    Principal::new(&claims.sub, claims.grants, Some(end))
}

fn invalid(reason: &str) -> NotAuthenticated {
    NotAuthenticated::Invalid(reason.to_owned())
}

#[async_trait]
impl Authorizer for JwtAuthorizer {
    async fn authorize(&self, token: Option<&str>, now_ms: u64) -> Result<Principal, NotAuthenticated> {
        self.principal(token.ok_or(NotAuthenticated::Missing)?, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::access::Right;

    const SECRET: &[u8] = b"a secret of more than thirty-two bytes";
    const NOW_MS: u64 = 1_800_000_000_000;
    const SOON_S: u64 = NOW_MS / 1000 + 60;

    fn door() -> JwtAuthorizer {
        JwtAuthorizer::new(JwtKeys::secret(SECRET).unwrap(), "games")
    }

    fn signed(claims: &serde_json::Value) -> String {
        encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
    }

    /// The key of seed 0x07…, as PKCS #8 (RFC 8410 section 7) and as its public half.
    fn ed25519() -> (EncodingKey, &'static str) {
        let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        der.extend([7; 32]);
        (EncodingKey::from_ed_der(&der), "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw")
    }

    #[test]
    fn a_token_names_somebody_and_what_they_may_do() {
        let grants = vec![Grant { documents: "go".into(), rights: vec![Right::Read] }];
        let token = sign(SECRET, "alice", "games", grants, SOON_S);
        let alice = door().principal(&token, NOW_MS).unwrap();
        assert_eq!(alice.name(), Some("alice"));
        assert_eq!(alice.expires_at_ms(), Some(SOON_S * 1000 + LEEWAY_MS));
        assert!(alice.has(Right::Read, Some(&nodestorage::DocumentId::new("go").unwrap())));
        let none = signed(&json!({"sub": "bob", "aud": ["x", "games"], "exp": SOON_S}));
        assert!(!door().principal(&none, NOW_MS).unwrap().has(Right::Read, None), "without grants: nothing");
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let with = |change: serde_json::Value| {
            let mut claims = json!({"sub": "alice", "aud": "games", "exp": SOON_S, "grants": []});
            json_patch::merge(&mut claims, &change);
            door().principal(&signed(&claims), NOW_MS).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(with(json!({})), Ok(()));
        for (change, said) in [
            (json!({"aud": "notes"}), "not meant for games"),
            (json!({"aud": null}), "without aud"),
            (json!({"exp": null}), "exp"),
            (json!({"exp": "soon"}), "expected"),
            (json!({"exp": -1}), "not a time"),
            (json!({"exp": 1e300}), "not a time"),
            (json!({"sub": null}), "sub"),
            (json!({"sub": ""}), "client id"),
            (json!({"nbf": SOON_S}), "not valid yet"),
            (json!({"exp": SOON_S - 60 - 31}), "expired"),
            (json!({"grants": [{"documents": "go", "rights": ["fly"]}]}), "fly"),
            (json!({"grants": [{"documents": "go", "rights": [], "section": "a"}]}), "section"),
        ] {
            let error = with(change.clone()).unwrap_err();
            assert!(error.contains(said), "{change}: {error}");
        }
        assert_eq!(with(json!({"exp": SOON_S - 60 - 29})), Ok(()), "clocks may be a little apart");
    }

    #[test]
    fn only_the_own_keys_let_in() {
        let good = sign(SECRET, "alice", "games", vec![Grant::everything()], SOON_S);
        let [head, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
        // {"alg":"none"}, and the same with the signature kept.
        let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.");
        let other = sign(&[1; 40], "alice", "games", vec![Grant::everything()], SOON_S);
        let cut = &good[..good.len() - 4];
        let more = format!("{head}.{claims}A.{signature}");
        for bad in ["", ".", "..", "x", "\u{0}.\u{ff}.é", &unsigned, &other, cut, &more] {
            assert!(matches!(door().principal(bad, NOW_MS), Err(NotAuthenticated::Invalid(_))), "{bad:?}");
        }
        assert!(matches!(JwtKeys::secret(&[0; 31]), Err(JwtError::ShortSecret { len: 31 })));
    }

    #[test]
    fn a_set_is_of_public_keys_by_name_and_kind() {
        let (private, public) = ed25519();
        let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "2026", "x": public});
        let keys = |keys: serde_json::Value| JwtKeys::set(json!({"keys": keys}).to_string().as_bytes());
        let set = keys(json!([key, {"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}, {"kty": "LWE"}]))
            .unwrap();
        let door = JwtAuthorizer::new(set, "games");
        let token = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
            encode(&header, &json!({"sub": "a", "aud": "games", "exp": SOON_S}), &private).unwrap()
        };
        assert_eq!(door.principal(&token(Some("2026")), NOW_MS).unwrap().name(), Some("a"));
        assert!(door.principal(&token(None), NOW_MS).is_ok());
        assert!(door.principal(&token(Some("2025")), NOW_MS).unwrap_err().to_string().contains("not known"));
        // Who knows the public key can't use it as a secret.
        let forged = sign(public.as_bytes(), "a", "games", vec![], SOON_S);
        assert!(door.principal(&forged, NOW_MS).unwrap_err().to_string().contains("not known"));
        door.set_keys(keys(json!([{"kty": "OKP", "crv": "Ed25519", "kid": "2027", "x": public}])).unwrap());
        assert!(door.principal(&token(Some("2026")), NOW_MS).is_err(), "the key was taken out of use");

        assert!(matches!(keys(json!([{"kty": "oct", "k": "AQAB"}])), Err(JwtError::Key { at: 0, .. })));
        assert!(matches!(
            keys(json!([{"kty": "OKP", "crv": "Ed25519", "alg": "RS256", "x": public}])),
            Err(JwtError::Key { .. })
        ));
        assert!(matches!(keys(json!([])), Err(JwtError::Count(0))));
        assert!(matches!(JwtKeys::set(b"[]"), Err(JwtError::NotASet(_))));
    }

    /// RFC 7515 appendix A.2 and A.3: what they sign has no audience, which is noticed after the signature.
    #[test]
    fn the_signatures_of_the_standard_are_right() {
        const CLAIMS: &str =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let rsa = json!({"kty": "RSA", "e": "AQAB", "n":
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
        let ec = json!({"kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
        for (key, head, signature) in [
            (
                rsa,
                "eyJhbGciOiJSUzI1NiJ9",
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
            ),
            (
                ec,
                "eyJhbGciOiJFUzI1NiJ9",
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
        ] {
            let door = JwtAuthorizer::new(
                JwtKeys::set(json!({"keys": [key]}).to_string().as_bytes()).unwrap(),
                "games",
            );
            let said = |token: String| door.principal(&token, NOW_MS).unwrap_err().to_string();
            let token = format!("{head}.{CLAIMS}.{signature}");
            let right = said(token.clone());
            assert!(right.contains("aud") || right.contains("sub"), "{head}: {right}");
            assert!(
                said(token.replace("cC4h", "cC5h").replace("DtEh", "DtFh")).contains("signature"),
                "{head}"
            );
        }
    }
}
