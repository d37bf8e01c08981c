//! Who may open the page's socket and read the text over HTTP: whoever knows the token.
//!
//! The page itself is public, it holds nothing. A browser is given the token once, in the address that the program prints,
//! and keeps it in a cookie that no script can read and that no other place's page can use.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

const COOKIE: &str = "notes-token";

/// What is asked for, if anything is.
#[derive(Clone)]
pub(crate) struct Token(Option<HeldToken>);

type HeldToken = std::sync::Arc<str>;

impl Token {
    pub(crate) fn new(token: Option<&str>) -> Self {
        Self(token.map(Into::into))
    }

    /// Whether one is asked for.
    pub(crate) const fn is_asked_for(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a request carries it, or none is asked for.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.0 else { return true };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut kept = cookies
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == COOKIE)
            .map(|(_, value)| value);
        bearer.is_some_and(|token| same(expected, token)) || kept.any(|token| same(expected, token))
    }

    /// The answer to a browser that brings it in the address: it keeps it, and goes on without it in the address, where
    /// others could read it over a shoulder or in a list of visited pages.
    pub(crate) fn hand_over(&self, query: &str) -> Option<Response> {
        let brought = query.split('&').find_map(|part| part.strip_prefix("token="))?;
        if !self.0.as_ref().is_none_or(|expected| same(expected, brought)) {
            return Some((StatusCode::FORBIDDEN, "not the token of this text").into_response());
        }
        let cookie = format!("{COOKIE}={brought}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
        let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
        if self.0.is_some()
            && let Ok(cookie) = HeaderValue::from_str(&cookie)
        {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        Some(response)
    }

    /// The answer to a request that does not carry it.
    pub(crate) fn refusal() -> Response {
        let how = [(header::WWW_AUTHENTICATE, "Bearer")];
        (StatusCode::UNAUTHORIZED, how, "open the address that the program printed, with its token")
            .into_response()
    }
}

/// Takes as long for a token that is wrong at its end as for one that is wrong at its beginning.
fn same(expected: &str, brought: &str) -> bool {
    let differences = expected.bytes().zip(brought.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    expected.len() == brought.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn whoever_knows_the_token_is_let_in() {
        let token = Token::new(Some("correct-horse"));
        assert!(token.admits(&with(header::AUTHORIZATION, "Bearer correct-horse")));
        assert!(token.admits(&with(header::COOKIE, "a=b; notes-token=correct-horse")));
        for (name, value) in [
            (header::AUTHORIZATION, "Bearer correct-horsE"),
            (header::AUTHORIZATION, "correct-horse"),
            (header::COOKIE, "notes-token=correct"),
            (header::COOKIE, "other=correct-horse"),
            (header::COOKIE, "notes-token=correct-horse-and-more"),
        ] {
            assert!(!token.admits(&with(name, value)), "{value}");
        }
        assert!(!token.admits(&HeaderMap::new()));
        assert!(Token::new(None).admits(&HeaderMap::new()));
    }

    #[test]
    fn the_address_hands_the_token_over_to_a_cookie() {
        let token = Token::new(Some("correct-horse"));
        let answer = token.hand_over("token=correct-horse").unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
        assert!(cookie.starts_with("notes-token=correct-horse;") && cookie.contains("HttpOnly"), "{cookie}");
        assert_eq!(token.hand_over("token=wrong").unwrap().status(), StatusCode::FORBIDDEN);
        assert!(token.hand_over("").is_none());
    }
}
