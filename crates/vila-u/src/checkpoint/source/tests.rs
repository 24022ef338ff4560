use super::*;

#[test]
fn names() {
    assert_eq!(Source::parse("nano").unwrap(), Source::Nano);
    assert_eq!(
        Source::parse("./nano").unwrap(),
        Source::Folder("./nano".into())
    );
    let repository = |organisation: &str, name: &str, revision: &str| Source::Hub {
        repository: Repository {
            organisation: organisation.into(),
            name: name.into(),
            revision: revision.into(),
        },
    };
    assert_eq!(
        Source::parse("hf:mit-han-lab/vila-u-7b-256").unwrap(),
        repository("mit-han-lab", "vila-u-7b-256", "main")
    );
    assert_eq!(
        Source::parse("hf:a/b.c@refs/pr/1").unwrap(),
        repository("a", "b.c", "refs/pr/1")
    );
    for bad in [
        "",
        "hf:",
        "hf:name",
        "hf:../x",
        "hf:a/b/c",
        "hf:a/b@../../etc",
        "hf:a/..",
        "hf:a/b@",
    ] {
        assert!(Source::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_cache_is_used_when_nothing_is_missing() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--a--b");
    let snapshot = folder.join("snapshots/0123abc");
    let write = |path: PathBuf, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(folder.join("refs/main"), "0123abc\n");
    let repository = |text: &str| text.parse::<Repository>().unwrap();
    assert!(repository("a/b").cached(cache.path()).is_none());
    write(snapshot.join("config.json"), "{}");
    write(snapshot.join("llm/tokenizer.model"), "");
    for component in ["llm", "mm_projector", "vision_tower"] {
        write(snapshot.join(component).join("config.json"), "{}");
        let cached = repository("a/b").cached(cache.path()).unwrap();
        assert!(!is_complete(&cached), "{component}");
        write(snapshot.join(component).join("model.safetensors"), "");
    }
    for name in ["a/b", "a/b@0123abc"] {
        let cached = repository(name).cached(cache.path()).unwrap();
        assert!(is_complete(&cached), "{name}");
    }
    assert!(repository("a/b@other").cached(cache.path()).is_none());
    // Without a note of what `main` is, one snapshot is it and two may be anything.
    fs::remove_file(folder.join("refs/main")).unwrap();
    assert!(is_complete(
        &repository("a/b").cached(cache.path()).unwrap()
    ));
    write(folder.join("snapshots/4567def/config.json"), "{}");
    assert!(repository("a/b").cached(cache.path()).is_none());
    fs::remove_dir_all(folder.join("snapshots/4567def")).unwrap();
    write(folder.join("refs/main"), "0123abc\n");
    // One of two shards.
    let index = r#"{"weight_map": {"x": "1.safetensors", "y": "2.safetensors"}}"#;
    write(snapshot.join("llm/model.safetensors.index.json"), index);
    fs::remove_file(snapshot.join("llm/model.safetensors")).unwrap();
    write(snapshot.join("llm/1.safetensors"), "");
    let cached = repository("a/b").cached(cache.path()).unwrap();
    assert!(!is_complete(&cached));
    write(snapshot.join("llm/2.safetensors"), "");
    assert!(is_complete(&cached));
    // A SigLIP has its weights beside its configuration.
    let snapshot = cache.path().join("models--a--siglip/snapshots/main");
    write(snapshot.join("config.json"), r#"{"model_type": "siglip"}"#);
    write(snapshot.join("spiece.model"), "");
    let siglip = || repository("a/siglip").cached(cache.path()).unwrap();
    assert!(!is_complete(&siglip()));
    write(snapshot.join("model.safetensors"), "");
    assert!(is_complete(&siglip()));
    // A name that would lead out of the cache.
    write(folder.join("refs/evil"), "../../../etc");
    assert!(repository("a/b@evil").cached(cache.path()).is_none());
}
