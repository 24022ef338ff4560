//! What pictures are classified by: the names of the classes, and the sentences that they are put into.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

use crate::{Error, Result, evaluation::Class};

/// The names of a hundred thousand classes are smaller.
const LARGEST_FILE: u64 = 16 << 20;

/// The classes by number, from 0, and how a dataset calls them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    names: Vec<String>,
    /// What the dataset calls each of them (ImageNet: `n01440764`), where the file says so.
    keys: Option<Vec<String>>,
}

impl ClassNames {
    /// Reads a file of any of these forms:
    ///
    /// - a name a line, or a JSON list of names, in the order of the classes' numbers (as open_clip's
    ///   `IMAGENET_CLASSNAMES` and CLIP_benchmark's `classnames.txt` have them)
    /// - a line `KEY: NAME` for each class, or a JSON object of them, where a key is what the dataset calls the class:
    ///   the name of its folder, or its number
    ///
    /// Errors name the file and what is wrong in it: not text, fewer than two classes, a key that comes twice.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&text_of(path)?).map_err(|reason| Error::invalid(path, reason))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let keyed: Option<Vec<(String, String)>> = match json_of(text)? {
            Some(Value::Object(classes)) => {
                let classes = classes
                    .into_iter()
                    .map(|(key, name)| Ok((key, string(name)?)));
                Some(classes.collect::<std::result::Result<_, String>>()?)
            }
            Some(_) => None,
            None => lines(text).map(key_and_name).collect(),
        };
        let Some(mut classes) = keyed else {
            let names = list(text)?;
            return Self::checked(names, None);
        };
        // In the order of their keys, as classes that are folders are numbered.
        classes.sort();
        if let Some([(key, _), _]) = classes.array_windows().find(|[(a, _), (b, _)]| a == b) {
            return Err(format!("the class {key} is there twice"));
        }
        let (keys, names) = classes.into_iter().unzip();
        Self::checked(names, Some(keys))
    }

    fn checked(names: Vec<String>, keys: Option<Vec<String>>) -> std::result::Result<Self, String> {
        if names.len() < 2 {
            return Err("give the names of at least two classes, a line each".into());
        }
        Ok(Self { names, keys })
    }

    /// By the number of the class.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How pictures' classes are told from each other. `folders`: the names of all folders of the dataset, if it is
    /// one of folders.
    ///
    /// What a dataset calls a class is, in this order: a key of the file; a name in it; where the folders are as many
    /// as the names, the name with the folder's place among the sorted folders (`torchvision`'s `ImageFolder`).
    ///
    /// A usage error where folders are to be counted, and are not as many.
    pub fn labels(&self, folders: &BTreeSet<String>) -> Result<Labels> {
        let mut by_name = BTreeMap::new();
        let known = self.keys.as_ref().unwrap_or(&self.names);
        for (number, name) in known.iter().enumerate() {
            // Of two classes with one name, none is meant by it.
            let class = by_name.entry(name.clone()).or_insert(Some(number));
            *class = class.filter(|class| *class == number);
        }
        let means = |folder: &String| by_name.get(folder).is_some_and(Option::is_some);
        if folders.iter().all(means) {
            return Ok(Labels {
                by_name,
                classes: self.names.len(),
            });
        }
        if self.keys.is_some() || folders.len() != self.names.len() {
            let unknown = folders.iter().find(|folder| !means(folder));
            return Err(Error::usage(format!(
                "the pictures are in {} folders and there are {} class names, none of them for {}: give --classes a \
                 line `FOLDER: NAME` for each folder, or as many names as there are folders, in the order of the folders",
                folders.len(),
                self.names.len(),
                unknown.map_or("", String::as_str)
            )));
        }
        let numbered = folders.iter().cloned().zip((0..).map(Some));
        Ok(Labels {
            by_name: numbered.collect(),
            classes: self.names.len(),
        })
    }
}

/// The class of a picture by what its dataset says.
#[derive(Clone, Debug)]
pub struct Labels {
    /// None where two classes have the name.
    by_name: BTreeMap<String, Option<usize>>,
    classes: usize,
}

impl Labels {
    /// The number of a class.
    ///
    /// A usage error of a picture without a class, and of one that is not among the names.
    pub fn number(&self, picture: &str, class: Option<&Class>) -> Result<usize> {
        let number = match class {
            None => {
                return Err(Error::usage(format!(
                    "{picture} has no class: lay pictures into a folder for each class, or give shards with .cls files \
                     or tables with a column `label`"
                )));
            }
            Some(Class::Name(name)) => self.by_name.get(name).copied().flatten(),
            Some(Class::Index(index)) => match self.by_name.get(&index.to_string()) {
                Some(number) => *number,
                None => Some(*index).filter(|index| *index < self.classes),
            },
        };
        number.ok_or_else(|| {
            let class = match class {
                Some(Class::Name(name)) => name.clone(),
                Some(Class::Index(index)) => index.to_string(),
                None => String::new(),
            };
            Error::usage(format!(
                "{picture} is of class {class}, and --classes names {} classes without it",
                self.classes
            ))
        })
    }
}

/// Sentences that the name of a class is put into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

impl Templates {
    /// Reads a file with a template a line, or a JSON list of them. The name of the class takes the place of `{}` or
    /// `{c}`: `a photo of a {}.`
    ///
    /// Errors name the file and the template without such a place.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&text_of(path)?).map_err(|reason| Error::invalid(path, reason))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let templates = list(text)?;
        let without = |template: &&String| !PLACES.iter().any(|place| template.contains(place));
        match templates.iter().find(without) {
            Some(template) => Err(format!(
                "{template:?} has no place for the class: write {{}} where its name belongs"
            )),
            None if templates.is_empty() => Err("no templates: write one a line".into()),
            None => Ok(Self(templates)),
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never, as they are read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is said of a class, a text for each template.
    pub fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let fill = move |template: &String| {
            // A name that looks like a place is not filled again.
            let parts = template
                .split(PLACES[0])
                .map(|part| part.replace(PLACES[1], name));
            parts.collect::<Vec<_>>().join(name)
        };
        self.0.iter().map(fill)
    }
}

/// Where the name of a class is put: as open_clip and as CLIP_benchmark write it.
const PLACES: [&str; 2] = ["{}", "{c}"];

fn text_of(path: &Path) -> Result<String> {
    let size = fs::metadata(path).map_err(Error::io(path))?.len();
    if size > LARGEST_FILE {
        let reason = format!(
            "larger than {} MiB: not a list of names",
            LARGEST_FILE >> 20
        );
        return Err(Error::invalid(path, reason));
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    String::from_utf8(bytes)
        .map(|text| text.trim_start_matches('\u{feff}').to_string())
        .map_err(|_| Error::invalid(path, "not UTF-8 text"))
}

/// The text as JSON, if it begins like it: a template may begin with a brace too.
fn json_of(text: &str) -> std::result::Result<Option<Value>, String> {
    let inside = text.trim_start().strip_prefix(['[', '{']);
    if !inside.is_some_and(|inside| inside.trim_start().starts_with('"')) {
        return Ok(None);
    }
    let value = serde_json::from_str(text);
    value
        .map(Some)
        .map_err(|error| format!("not JSON: {error}"))
}

/// A JSON list of strings, or what stands in each line.
fn list(text: &str) -> std::result::Result<Vec<String>, String> {
    match json_of(text)? {
        Some(Value::Array(values)) => values.into_iter().map(string).collect(),
        Some(_) => Err("give a JSON list of texts, or one a line".into()),
        None => Ok(lines(text).map(str::to_string).collect()),
    }
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn string(value: Value) -> std::result::Result<String, String> {
    match value {
        Value::String(text) => Ok(text.trim().to_string()),
        other => Err(format!("{other} is no text")),
    }
}

/// Of `n01440764: tench`: a key is one word.
fn key_and_name(line: &str) -> Option<(String, String)> {
    let (key, name) = line.split_once(": ")?;
    let word = !key.is_empty() && !key.contains(char::is_whitespace);
    word.then(|| (key.to_string(), name.trim().to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(text: &str) -> ClassNames {
        ClassNames::parse(text).unwrap()
    }

    fn folders(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn number(labels: &Labels, class: &str) -> Option<usize> {
        labels
            .number("a.png", Some(&Class::Name(class.into())))
            .ok()
    }

    #[test]
    fn classes_come_in_every_form() {
        let plain = names("tench\n\n goldfish \n");
        assert_eq!(plain, names(r#"["tench", "goldfish"]"#));
        assert_eq!(plain.names(), ["tench", "goldfish"]);
        let keyed = names("n01443537: goldfish\nn01440764: tench");
        assert_eq!(
            keyed,
            names(r#"{"n01443537": "goldfish", "n01440764": "tench"}"#)
        );
        assert_eq!(keyed.names(), ["tench", "goldfish"]);
        for (text, reason) in [
            ("tench", "two classes"),
            ("", "two classes"),
            (r#"["tench""#, "not JSON"),
            (r#"["tench", 7]"#, "7 is no text"),
            ("a: tench\na: goldfish", "a is there twice"),
        ] {
            let error = ClassNames::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), [0xff, 0xfe, 0]).unwrap();
        let error = ClassNames::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }

    #[test]
    fn folders_are_keys_or_names_or_counted() {
        let keyed = names("n02: cat\nn01: dog");
        let labels = keyed.labels(&folders(&["n02"])).unwrap();
        assert_eq!(
            (number(&labels, "n02"), number(&labels, "n01")),
            (Some(1), Some(0))
        );
        assert_eq!(number(&labels, "cat"), None);
        let error = keyed
            .labels(&folders(&["n01", "n03"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("n03"), "{error}");

        // Names in any order, and names that follow the sorted folders.
        let plain = names("dog\ncat");
        let labels = plain.labels(&folders(&["cat", "dog"])).unwrap();
        assert_eq!(
            (number(&labels, "dog"), number(&labels, "cat")),
            (Some(0), Some(1))
        );
        let labels = plain.labels(&folders(&["n01", "n02"])).unwrap();
        assert_eq!(
            (number(&labels, "n01"), number(&labels, "n02")),
            (Some(0), Some(1))
        );
        let error = plain.labels(&folders(&["n01", "n02", "n03"])).unwrap_err();
        assert!(error.to_string().contains("3 folders"), "{error}");
        // Two classes of one name are told apart by their place alone.
        let twins = names("crane\ncrane");
        assert!(twins.labels(&folders(&["crane"])).is_err());
        let labels = twins.labels(&folders(&["n01", "n02"])).unwrap();
        assert_eq!(number(&labels, "n02"), Some(1));
    }

    #[test]
    fn numbers_are_keys_or_places() {
        let number = |labels: &Labels, index| labels.number("1.png", Some(&Class::Index(index)));
        let labels = names("dog\ncat").labels(&BTreeSet::new()).unwrap();
        assert_eq!(number(&labels, 1).unwrap(), 1);
        let error = number(&labels, 2).unwrap_err().to_string();
        assert!(
            error.contains("class 2") && error.contains("1.png"),
            "{error}"
        );
        let labels = names("10: ten\n9: nine").labels(&BTreeSet::new()).unwrap();
        assert_eq!(
            (number(&labels, 9).unwrap(), number(&labels, 10).unwrap()),
            (1, 0)
        );
        let error = labels.number("1.png", None).unwrap_err().to_string();
        assert!(error.contains("no class"), "{error}");
    }

    #[test]
    fn templates_have_a_place_for_the_class() {
        let texts = |text: &str, name| -> Vec<String> {
            Templates::parse(text).unwrap().texts(name).collect()
        };
        assert_eq!(
            texts("a photo of a {}.\n{c}, a {c}", "cat"),
            ["a photo of a cat.", "cat, a cat"]
        );
        assert_eq!(texts(r#"["{}"]"#, "{c} {}"), ["{c} {}"]);
        assert_eq!(texts("{} and {}\na {}", "b"), ["b and b", "a b"]);
        for (text, reason) in [
            ("a photo", "no place"),
            ("\n", "no templates"),
            ("[\"", "JSON"),
        ] {
            let error = Templates::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
