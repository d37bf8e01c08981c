//! What the tests of stores share.

use std::path::Path;

/// A folder that vanishes after the test: in memory where the system has a place for that, as these tests end
/// processes and damage files but never switch off the machine.
pub(crate) fn folder() -> tempfile::TempDir {
    let in_memory = Path::new("/dev/shm");
    let folder = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder can be made")
}
