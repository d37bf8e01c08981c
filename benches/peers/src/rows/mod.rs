//! What is measured.

pub mod bench;
pub mod json;
pub mod text;
