//! Lists the files of the page, whose contents become part of the program.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=assets");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
    }
    files.sort();
    let lines = files.iter().map(|(name, path)| {
        let path = path.to_string_lossy();
        format!("({name:?}, include_bytes!({path:?}).as_slice()),\n")
    });
    let list = lines.collect::<String>();
    let code = format!("static ASSETS: &[(&str, &[u8])] = &[\n{list}];\n");
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&out).join("assets.rs"), code)
}
