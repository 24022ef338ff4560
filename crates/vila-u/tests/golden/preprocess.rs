//! Image preprocessing, exact to the last bit.

use vila_u::media::{
    self,
    preprocess::{ResizeMode, pixels},
};

use crate::fixture::{self, Recorded};

#[test]
fn images() {
    let recorded = Recorded::open("preprocess.safetensors");
    let inputs = fixture::folder().join("inputs");
    let cases = [
        ("understanding", ResizeMode::Stretch, &[0, 1, 2, 3, 4][..]),
        ("understanding_pil", ResizeMode::StretchNative, &[3, 4]),
        ("generation", ResizeMode::Crop, &[0, 1, 2, 3, 4]),
        ("pad", ResizeMode::Pad, &[0, 2]),
    ];
    for (name, mode, images) in cases {
        for image in images {
            let picture = media::load(&inputs.join(format!("img{image}.png"))).unwrap();
            let key = format!("img{image}.{name}");
            let size = recorded.shape(&key)[2] as u32;
            assert!(
                pixels(&picture, size, mode) == recorded.floats(&key),
                "{key} differs"
            );
        }
    }
}

/// Grey pictures: resized as they are or as colours, the same values.
#[test]
fn grey_is_the_same_in_both_modes() {
    let picture = media::load(&fixture::folder().join("inputs/img2.png")).unwrap();
    let modes = [ResizeMode::Stretch, ResizeMode::StretchNative];
    let [path, native] = modes.map(|mode| pixels(&picture, 64, mode));
    assert_eq!(path, native);
}
