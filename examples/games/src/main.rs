//! Games edited in several browsers at once.

fn main() {}
