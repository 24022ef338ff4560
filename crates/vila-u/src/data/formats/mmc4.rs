//! Multimodal C4: web pages as lists of sentences, each picture matched with a sentence.
//!
//! ```json
//! {"url": "...", "text_list": ["One.", "Two."], "similarity_matrix": [[0.2, 0.3]],
//!  "image_info": [{"image_name": "b9.jpg", "raw_url": "...", "matched_text_index": 1, "matched_sim": 0.3}]}
//! ```
//!
//! Layout: allenai/mmc4, `README.md`, one page a line, each shard zipped as it is published
//! (`docs_no_face_shard_0_v3.jsonl.zip`) or not. Pictures lie in a folder by `image_name`, in
//! a tar file of the shard's name in that folder, or in the record as `image_base64`, as the authors'
//! training code and OpenFlamingo (`scripts/convert_mmc4_to_wds.py`: tar shards of such records) have
//! it. Each picture goes before its sentence; of more than six, the first six of the list are used. A page without
//! one of its pictures is a page all the same.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    Bad, Records,
    archive::{Index, Members},
    json::{self, Entries},
    zipped,
};
use crate::{
    Error, Result,
    data::record::{Image, Pictures, Record, Text, inside},
    text::as_words,
};

/// Pictures of one page.
const MOST_IMAGES: usize = 6;

#[derive(Deserialize)]
struct Page {
    text_list: Vec<String>,
    image_info: Vec<Info>,
    similarity_matrix: Option<Vec<Vec<IgnoredAny>>>,
}

#[derive(Deserialize)]
struct Info {
    image_name: Option<String>,
    image_base64: Option<String>,
    matched_text_index: usize,
}

/// The pages of a shard: JSON lines, zipped or not, or a tar file of JSON files.
pub(in crate::data) fn open(path: &Path, folder: &Path) -> Result<Records> {
    if path.extension().is_some_and(|ending| ending == "tar") {
        let pages = Members::open(path)?.filter_map(|member| {
            let member = match member {
                Ok(member) if member.ending != "json" => return None,
                Ok(member) => member,
                Err(bad) => return Some(Err(bad)),
            };
            let bad = |reason| Bad {
                key: member.key.clone(),
                reason,
            };
            let page = (member.content)
                .and_then(|content| json::parse(&content))
                .and_then(|page| {
                    record(member.key.clone(), page, &mut |_| {
                        Err("a page in a tar shard holds its pictures as image_base64".into())
                    })
                });
            Some(page.map_err(bad))
        });
        return Ok(Box::new(pages));
    }
    let archive = folder
        .join(path.file_stem().unwrap_or_default())
        .with_extension("tar");
    let archive = if archive.is_file() {
        Some(Arc::new(Mutex::new(Index::open(&archive)?)))
    } else {
        None
    };
    let folder = folder.to_path_buf();
    let found = move |number: u64, page| {
        record(number.to_string(), page, &mut |name| match &archive {
            Some(archive) => {
                let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
                archive.read(name).map(Image::Bytes)
            }
            None => inside(&folder, name).map(Image::File),
        })
    };
    if path.extension().is_some_and(|ending| ending == "zip") {
        let lines = Entries::new(zipped::open(path, ".jsonl")?).map_err(Error::io(path))?;
        return Ok(json::records_of(lines, found));
    }
    json::records(path, found)
}

/// `find`: the picture of that name.
fn record(
    id: String,
    page: Page,
    find: &mut dyn FnMut(&str) -> std::result::Result<Image, String>,
) -> std::result::Result<Record, String> {
    let (sentences, pictures) = (page.text_list.len(), page.image_info.len());
    if let Some(matrix) = &page.similarity_matrix
        && (matrix.len() != pictures || matrix.iter().any(|row| row.len() != sentences))
    {
        return Err(format!(
            "similarity_matrix is not {pictures} pictures x {sentences} sentences"
        ));
    }
    let sentences_as_words = page.text_list.iter().map(|sentence| as_words(sentence));
    let mut text: Vec<String> = sentences_as_words.collect();
    let mut images = Vec::new();
    for info in page.image_info.iter().take(MOST_IMAGES) {
        let at = info.matched_text_index;
        let sentence = text.get_mut(at).ok_or_else(|| {
            format!("matched_text_index {at} is beyond the page's {sentences} sentences")
        })?;
        sentence.insert_str(0, "<image>");
        let image = match (&info.image_base64, &info.image_name) {
            (Some(content), _) => super::base64(content).map(Image::Bytes),
            (None, Some(name)) => find(name),
            (None, None) => Err("a picture has neither image_name nor image_base64".into()),
        };
        images.push((at, image.unwrap_or_else(Image::Missing)));
    }
    images.sort_by_key(|(at, _)| *at);
    Ok(Record {
        id,
        text: Text::Page(text.join(" ")),
        pictures: Pictures::Images(images.into_iter().map(|(_, image)| image).collect()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::data::formats::archive::tests::tar;

    fn page(infos: serde_json::Value) -> String {
        json!({"url": "u", "text_list": ["One <image>.", "Two.", "Three."], "image_info": infos})
            .to_string()
    }

    fn read(path: &Path, folder: &Path) -> Vec<std::result::Result<Record, Bad>> {
        open(path, folder).unwrap().collect()
    }

    #[test]
    fn pictures_stand_before_their_sentences() {
        let folder = tempfile::tempdir().unwrap();
        let shard = folder.path().join("shard_0.jsonl");
        let infos = json!([
            {"image_name": "c.jpg", "matched_text_index": 2, "matched_sim": 0.3},
            {"image_name": "a.jpg", "matched_text_index": 0, "matched_sim": 0.3},
            {"image_name": "d.jpg", "matched_text_index": 2, "matched_sim": 0.2},
        ]);
        fs::write(&shard, page(infos.clone())).unwrap();
        let images = folder.path().join("images");
        let records = read(&shard, &images);
        let record = records[0].as_ref().unwrap();
        let text = "<image>One <IMAGE>. Two. <image><image>Three.";
        assert_eq!(record.text, Text::Page(text.into()));
        let named = ["a.jpg", "c.jpg", "d.jpg"].map(|name| Image::File(images.join(name)));
        assert_eq!(record.pictures, Pictures::Images(named.to_vec()));

        // The same pictures in a tar file, and in the record.
        fs::create_dir(&images).unwrap();
        let archive: [(&str, &[u8]); 3] = [("d.jpg", b"D"), ("a.jpg", b"A"), ("c.jpg", b"C")];
        fs::write(images.join("shard_0.tar"), tar(&archive)).unwrap();
        let bytes = [b"A", b"C", b"D"].map(|content| Image::Bytes(content.to_vec()));
        let bytes = Pictures::Images(bytes.to_vec());
        assert_eq!(read(&shard, &images)[0].as_ref().unwrap().pictures, bytes);
        let infos = json!([
            {"image_base64": "Qw==", "matched_text_index": 2},
            {"image_base64": "QQ==", "matched_text_index": 0},
            {"image_base64": "RA==", "matched_text_index": 2},
        ]);
        let sharded = folder.path().join("00000.tar");
        let content = page(infos);
        fs::write(&sharded, tar(&[("5f.json", content.as_bytes())])).unwrap();
        let records = read(&sharded, &images);
        let record = records[0].as_ref().unwrap();
        assert_eq!((record.id.as_str(), &record.pictures), ("5f", &bytes));
        assert_eq!(record.text, Text::Page(text.into()));
    }

    #[test]
    fn zipped_shards_are_read_as_they_are_published() {
        let folder = tempfile::tempdir().unwrap();
        let info = json!([{"image_name": "a.jpg", "matched_text_index": 1}]);
        let lines = [page(info.clone()), page(json!([]))].join("\n");
        let path = folder.path().join("docs_no_face_shard_0_v3.jsonl.zip");
        let zip = zipped::tests::zip(&[("docs_no_face_shard_0_v3.jsonl", lines.as_bytes())]);
        fs::write(&path, zip).unwrap();
        let images = folder.path().join("images");
        let records = read(&path, &images);
        assert_eq!(records.len(), 2);
        let first = records[0].as_ref().unwrap();
        assert_eq!(
            first.text,
            Text::Page("One <IMAGE>. <image>Two. Three.".into())
        );
        let named = Image::File(images.join("a.jpg"));
        assert_eq!(first.pictures, Pictures::Images(vec![named]));
        // The archive of its pictures goes by the shard's own name.
        fs::create_dir(&images).unwrap();
        let archive = images.join("docs_no_face_shard_0_v3.tar");
        fs::write(archive, tar(&[("a.jpg", b"A")])).unwrap();
        let bytes = Pictures::Images(vec![Image::Bytes(b"A".to_vec())]);
        assert_eq!(read(&path, &images)[0].as_ref().unwrap().pictures, bytes);
    }

    #[test]
    fn pages_without_a_picture_and_the_rest_are_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let shard = folder.path().join("s.jsonl");
        let matrix = json!({"text_list": ["a"], "image_info": [], "similarity_matrix": [[1.0]]});
        let lines = [
            page(json!([{"image_name": "a.jpg", "matched_text_index": 3}])),
            page(json!([{"image_name": "../a.jpg", "matched_text_index": 0}])),
            page(json!([{"image_base64": "!", "matched_text_index": 0}])),
            matrix.to_string(),
            page(json!([])),
        ];
        fs::write(&shard, lines.join("\n")).unwrap();
        let records = read(&shard, folder.path());
        assert_eq!(records.len(), 5);
        let bad = |at: usize| records[at].as_ref().unwrap_err().reason.as_str();
        assert!(bad(0).contains("beyond the page's 3 sentences"));
        assert!(bad(3).contains("similarity_matrix"));
        for (at, expected) in [(1, "leaves the folder"), (2, "base64")] {
            let Pictures::Images(images) = &records[at].as_ref().unwrap().pictures else {
                return assert_eq!("images", "");
            };
            let missing =
                |image: &Image| matches!(image, Image::Missing(why) if why.contains(expected));
            assert!(missing(&images[0]), "{images:?}");
        }
        assert!(records[4].is_ok());
    }
}
