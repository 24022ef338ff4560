//! Pictures and their classes, without anything said about them: what evaluations read.

use std::path::Path;

use parquet::record::{Field, Row};

use super::{
    Bad,
    archive::{Member, Members},
    parquet::{image, rows},
};
use crate::{Result, data::record::Image, media};

/// Endings of image files.
pub(crate) const IMAGES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// A picture that is not yet decoded.
pub(crate) struct PictureFile {
    /// The same in every run.
    pub id: String,
    pub class: Option<Class>,
    pub content: Vec<u8>,
}

/// What a picture shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// By its number, from 0.
    Index(usize),
    /// By the name of its folder, or what its `.cls` file or label says.
    Name(String),
}

impl Class {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        text.parse()
            .map_or_else(|_| Self::Name(text.into()), Self::Index)
    }
}

/// Those of a file, in its order.
pub(crate) type PictureFiles =
    Box<dyn Iterator<Item = std::result::Result<PictureFile, Bad>> + Send>;

/// The images of a tar file: a class is in the `.cls` file of the same name, otherwise it is the folder.
pub(crate) fn of_tar(path: &Path) -> Result<PictureFiles> {
    let mut members = Members::open(path)?;
    let mut waiting = None;
    let pictures = std::iter::from_fn(move || {
        // The files of one name stand together.
        loop {
            let mut group = Group::default();
            let first = match waiting.take().or_else(|| members.next())? {
                Ok(member) => member,
                Err(bad) => return Some(Err(bad)),
            };
            let key = first.key.clone();
            group.add(first);
            for member in members.by_ref() {
                match member {
                    Ok(member) if member.key == key => group.add(member),
                    other => {
                        waiting = Some(other);
                        break;
                    }
                }
            }
            if let Some(picture) = group.picture(key) {
                return Some(picture);
            }
        }
    });
    Ok(Box::new(pictures))
}

/// The files of one name.
#[derive(Default)]
struct Group {
    image: Option<std::result::Result<Vec<u8>, String>>,
    class: Option<Class>,
}

impl Group {
    fn add(
        &mut self,
        Member {
            ending, content, ..
        }: Member,
    ) {
        match (ending.as_str(), content) {
            (ending, content) if IMAGES.contains(&ending) => self.image = Some(content),
            ("cls", Ok(content)) => {
                self.class = Some(Class::parse(&String::from_utf8_lossy(&content)));
            }
            _ => {}
        }
    }

    /// None without an image.
    fn picture(self, key: String) -> Option<std::result::Result<PictureFile, Bad>> {
        let folder = || {
            let (folders, _) = key.rsplit_once('/')?;
            let folder = folders.rsplit('/').next().filter(|name| *name != ".")?;
            Some(Class::Name(folder.into()))
        };
        Some(match self.image? {
            Ok(content) => Ok(PictureFile {
                class: self.class.or_else(folder),
                id: key,
                content,
            }),
            Err(reason) => Err(Bad { key, reason }),
        })
    }
}

/// The column `image` of a Parquet table; a class is the column `label`.
pub(crate) fn of_table(path: &Path) -> Result<PictureFiles> {
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let pictures = rows(path, &["image", "label"])?
        .zip(1_u64..)
        .map(move |(row, number)| {
            let key = format!("row {number}");
            let picture = row.and_then(|row| of_row(&key, row, &folder));
            picture.map_err(|reason| Bad { key, reason })
        });
    Ok(Box::new(pictures))
}

fn of_row(key: &str, row: Row, folder: &Path) -> std::result::Result<PictureFile, String> {
    let (mut picture, mut class) = (None, None);
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("label", Field::Str(text)) => class = Some(Class::parse(&text)),
            ("label", Field::Null) => {}
            // Whatever kind of number it is. ImageNet's test split has -1.
            ("label", number) => class = number.to_string().parse().ok().map(Class::Index),
            (_, field) => picture = Some(image(&field, folder)?),
        }
    }
    let content = match picture {
        Some(Image::Bytes(content)) => content,
        Some(Image::File(path)) => media::read_file(&path).map_err(|error| error.to_string())?,
        _ => return Err("no picture in the column `image`".into()),
    };
    Ok(PictureFile {
        id: key.into(),
        class,
        content,
    })
}
