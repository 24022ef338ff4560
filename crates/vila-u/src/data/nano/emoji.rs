//! The objects of the nano world and their Unicode names.
//!
//! The *inventory* is what scenes, captions and questions speak of. The *gallery* is several
//! hundred further emoji that only widen the art that the vision tower learns to reconstruct; one in twelve of
//! them is held out as a whole, to measure reconstruction of art never seen.

use std::sync::OnceLock;

use twemoji_assets::svg::SvgTwemojiAsset;

use super::Split;

/// One piece of Twemoji art with its Unicode (CLDR) name; three objects go by a shorter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emoji {
    pub character: char,
    pub name: &'static str,
    pub(super) svg: &'static str,
}

impl Emoji {
    fn find(character: char) -> Option<Self> {
        let asset = SvgTwemojiAsset::from_emoji(character.encode_utf8(&mut [0; 4]))?;
        let name = match asset.label.filter(|label| !label.is_empty())? {
            "snowman without snow" => "snowman",
            "spouting whale" => "whale",
            "deciduous tree" => "tree",
            name => name,
        };
        Some(Self {
            character,
            name,
            svg: asset.data.0,
        })
    }

    /// "a dog", "an eagle".
    pub fn with_article(&self) -> String {
        let vowel = self.name.starts_with(['a', 'e', 'i', 'o', 'u']) && self.name != "unicorn";
        format!("{} {}", if vowel { "an" } else { "a" }, self.name)
    }

    /// "dogs", "foxes", "maple leaves".
    pub fn plural(&self) -> String {
        let name = self.name;
        for (ending, plural) in [("die", "dice"), ("leaf", "leaves"), ("snowman", "snowmen")] {
            if let Some(stem) = name.strip_suffix(ending) {
                return format!("{stem}{plural}");
            }
        }
        if ["s", "x", "ch", "sh", "tomato"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return format!("{name}es");
        }
        match name.strip_suffix('y') {
            Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
            _ => format!("{name}s"),
        }
    }
}

/// The objects of scenes: familiar, distinct in shape, with short countable names.
const INVENTORY: &str = "\
    ❤🐕🐈🐻🐼🦁🐄🐖🐸🐧🦆🦉🦊🦄🐘🐢🐳🐙🦀🦋🐝\
    🍎🍌🍋🍓🍉🍍🍅🥕🍄🍕🍔🍩🍪🎂\
    ⭐☁🌈⛄🌵🌹🌻🍁🌙🌳\
    🚀🚁🚲🚌🚗⛵⚓🏠🎈👑🎩🔔🔑💡🎸🥁📷💻🔨👻🤖💀🏆🏀🎲🚪";

/// Words in names of art that is letters, signs, or nearly the same as other art.
const NOT_ART: [&str; 20] = [
    "button",
    "flag",
    "sign",
    "symbol",
    "o’clock",
    "-thirty",
    "skin tone",
    "keycap",
    "input",
    "arrow",
    "square",
    "circle",
    "mark",
    "Japanese",
    "letter",
    "room",
    "no ",
    "cross",
    "calendar",
    "banknote",
];

/// Signs and gestures that their names do not give away: radioactive to wheel of dharma, the
/// zodiac, symbols of faith, a rude finger.
fn is_sign(character: char) -> bool {
    matches!(
        character,
        '\u{2622}'..='\u{2638}'
            | '\u{2648}'..='\u{2653}'
            | '\u{26ce}'
            | '\u{2721}'
            | '\u{1f4a4}'
            | '\u{1f4af}'
            | '\u{1f4b1}'
            | '\u{1f52f}'
            | '\u{1f549}'
            | '\u{1f595}'
            | '\u{1f6be}'
            | '\u{1f6d0}'
            | '\u{1faaf}'
    )
}

/// Every object that scenes are made of, in a fixed order.
pub fn inventory() -> &'static [Emoji] {
    static LIST: OnceLock<Vec<Emoji>> = OnceLock::new();
    LIST.get_or_init(|| INVENTORY.chars().filter_map(Emoji::find).collect())
}

/// The object of that name, e.g. `"red heart"`.
pub fn named(name: &str) -> Option<&'static Emoji> {
    inventory().iter().find(|emoji| emoji.name == name)
}

/// Further art of a split: one emoji in twelve is held out from training as a whole.
pub fn gallery(split: Split) -> &'static [Emoji] {
    static LISTS: OnceLock<[Vec<Emoji>; 3]> = OnceLock::new();
    let lists = LISTS.get_or_init(|| {
        let mut lists = [const { Vec::new() }; 3];
        let all = [
            '\u{2600}'..='\u{27bf}',
            '\u{1f300}'..='\u{1f6ff}',
            '\u{1f900}'..='\u{1faff}',
        ]
        .into_iter()
        .flatten()
        .filter(|&character| !INVENTORY.contains(character) && !is_sign(character))
        .filter_map(Emoji::find)
        .filter(|emoji| !NOT_ART.iter().any(|word| emoji.name.contains(word)));
        for emoji in all {
            lists[gallery_split(&emoji) as usize].push(emoji);
        }
        lists
    });
    &lists[split as usize]
}

/// The split that an emoji of the gallery belongs to.
pub fn gallery_split(emoji: &Emoji) -> Split {
    Split::of(emoji.name, 12)
}
