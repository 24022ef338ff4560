//! Writes what `torch.save(state_dict)` writes: a zip of a pickle and the tensors' storages.

/// Key, pickled storage class (`FloatStorage`, ...), shape, and which storage it views from its start.
pub struct Entry<'a> {
    pub key: &'a str,
    pub class: &'a str,
    pub shape: &'a [usize],
    pub storage: usize,
}

/// A state dict; several entries may share a storage.
pub fn state_dict(entries: &[Entry], storages: &[Vec<u8>]) -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for entry in entries {
        let count: usize = entry.shape.iter().product();
        string(&mut pickle, entry.key);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        string(&mut pickle, "storage");
        pickle.extend(format!("ctorch\n{}\n", entry.class).bytes());
        string(&mut pickle, &entry.storage.to_string());
        string(&mut pickle, "cpu");
        integer(&mut pickle, count);
        pickle.extend(b"tQ");
        integer(&mut pickle, 0);
        let strides: Vec<usize> = (0..entry.shape.len())
            .map(|i| entry.shape[i + 1..].iter().product())
            .collect();
        for tuple in [entry.shape, &strides] {
            pickle.push(b'(');
            tuple.iter().for_each(|n| integer(&mut pickle, *n));
            pickle.push(b't');
        }
        pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    archive(&pickle, storages)
}

/// A file whose pickle is `pickle`.
pub fn archive(pickle: &[u8], storages: &[Vec<u8>]) -> Vec<u8> {
    let mut files = vec![
        ("archive/data.pkl".to_string(), pickle.to_vec()),
        ("archive/byteorder".to_string(), b"little".to_vec()),
        ("archive/version".to_string(), b"3\n".to_vec()),
    ];
    for (index, storage) in storages.iter().enumerate() {
        files.push((format!("archive/data/{index}"), storage.clone()));
    }
    zip(&files)
}

fn string(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn integer(pickle: &mut Vec<u8>, value: usize) {
    pickle.push(b'J');
    pickle.extend((value as i32).to_le_bytes());
}

/// A zip archive without compression.
fn zip(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, contents) in files {
        let offset = out.len() as u32;
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]); // version, flags, method, time, date
        common.extend(crc32(contents).to_le_bytes());
        common.extend((contents.len() as u32).to_le_bytes());
        common.extend((contents.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.bytes());
        out.extend(contents);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let start = out.len() as u32;
    let count = (files.len() as u16).to_le_bytes();
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ *byte as u32, |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}
