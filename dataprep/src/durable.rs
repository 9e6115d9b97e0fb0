//! Files and renames that outlive a crash.

use crate::error::{Error, Result};
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Writes a whole file so that its name holds either the old content or the new.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().expect("a file has a name").to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = fs::File::create(&temporary).map_err(Error::io("create", &temporary))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(Error::io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::io("rename a finished file to", path))
}

/// Makes renames in `folder` outlive a power failure.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = || fs::File::open(folder)?.sync_all();
    sync().map_err(Error::io("sync", folder))
}
