//! What a game must look like.

use nodestorage::Body;
use serde_json::Value;

/// The longest name of a game in characters.
const NAME_CHARS_MAX: usize = 200;

/// A game has a name. Whatever else it has is up to the players.
pub(crate) fn check(game: &Body) -> Result<(), String> {
    match game.get("name") {
        Some(Value::String(name)) if name.trim().is_empty() => Err("a game's name must not be empty".into()),
        Some(Value::String(name)) => match name.chars().count() {
            1..=NAME_CHARS_MAX => Ok(()),
            length => {
                Err(format!("a game's name of {length} characters, at most {NAME_CHARS_MAX} are allowed"))
            }
        },
        Some(other) => Err(format!("a game's name must be a string, not {other}")),
        None => Err("a game needs a name".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_game_has_a_name_and_anything_else() {
        let check = |game: Value| check(game.as_object().unwrap()).map_err(|e| e.len() > 10);
        assert_eq!(check(json!({"name": "Go", "gold": 7, "players": ["a"]})), Ok(()));
        for bad in [json!({}), json!({"name": 7}), json!({"name": " "}), json!({"name": "x".repeat(201)})] {
            assert_eq!(check(bad), Err(true));
        }
    }
}
