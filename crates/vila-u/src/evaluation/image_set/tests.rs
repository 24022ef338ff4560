use super::*;
use crate::data::formats::tests::tar;

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_pixel(4, 4, image::Rgb([shade; 3]));
    let format = image::ImageFormat::Png;
    image
        .write_to(&mut std::io::Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

/// Ids, classes and shades in order, in batches, and what the set was.
type Read = (Vec<Vec<(ImageId, u8)>>, ImageSetSummary);

fn read(path: &Path, threads: usize) -> Read {
    let mut batches = Vec::new();
    let set = ImageSet::open(path.to_str().unwrap()).unwrap();
    let shade = |_: &ImageId, picture: Picture| Ok(picture.rgb().get_pixel(0, 0)[0]);
    let summary = set.for_each_batch(2, threads, shade, |batch| {
        batches.push(batch);
        Ok(())
    });
    (batches, summary.unwrap())
}

fn image(id: &str, class: Option<Class>) -> ImageId {
    ImageId {
        id: id.into(),
        class,
    }
}

#[test]
fn folders_are_read_in_order_with_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("n02/b.png", png(3)),
        ("n01/a.PNG", png(1)),
        ("n01/._a.png", b"Finder".to_vec()),
        ("n01/b.jpg", b"no image".to_vec()),
        ("n01/c.png", png(2)),
        ("n01/notes.txt", b"text".to_vec()),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let class = |name: &str| Some(Class::Name(name.into()));
    let set = ImageSet::open(folder.path().to_str().unwrap()).unwrap();
    assert!(set.folders().iter().eq(["n01", "n02"]));
    let expected = [
        (image("n01/a.PNG", class("n01")), 1),
        (image("n01/c.png", class("n01")), 2),
        (image("n02/b.png", class("n02")), 3),
    ];
    let mut digests = Vec::new();
    for threads in [1, 3] {
        let (batches, summary) = read(folder.path(), threads);
        assert_eq!(batches.concat(), expected);
        assert_eq!(summary.identity.n, Some(3));
        assert_eq!(summary.skipped.values().sum::<usize>(), 1);
        digests.push(summary.identity.sha256);
    }
    assert_eq!(digests[0], digests[1]);
    fs::write(folder.path().join("n01/c.png"), png(9)).unwrap();
    assert_ne!(read(folder.path(), 1).1.identity.sha256, digests[0]);
}

#[test]
fn shards_have_classes_beside_their_images() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (png(1), png(2));
    let files: [(&str, &[u8]); 5] = [
        ("0.cls", b"7"),
        ("0.png", &one),
        ("0.json", b"{}"),
        ("dog/1.png", &two),
        ("2.png", b"no image"),
    ];
    fs::write(folder.path().join("a.tar"), tar(&files)).unwrap();
    let (batches, summary) = read(folder.path(), 1);
    let expected = [
        (image("a.tar/0", Some(Class::Index(7))), 1),
        (image("a.tar/dog/1", Some(Class::Name("dog".into()))), 2),
    ];
    assert_eq!(batches.concat(), expected);
    assert_eq!(summary.skipped.len(), 1);
}

#[test]
fn an_error_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..50 {
        fs::write(folder.path().join(format!("{n:02}.png")), png(n)).unwrap();
    }
    let set = ImageSet::open(folder.path().to_str().unwrap()).unwrap();
    assert_eq!(set.count(), Some(50));
    let ended = set.for_each_batch(4, 2, |_, _| Ok(()), |_| Err(Error::Interrupted));
    assert!(matches!(ended, Err(Error::Interrupted)));
    let empty = tempfile::tempdir().unwrap();
    let error = ImageSet::open(empty.path().to_str().unwrap()).unwrap_err();
    assert!(error.to_string().contains("no images here"), "{error}");
}
