//! `eval answers` and `eval video-qa` on miniatures of their sets, with the embedded model and a judge of its own.
//!
//! One file, as all of them ask the same miniatures of the same judge.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use image::{Frame, Rgb, RgbImage, Rgba, RgbaImage, codecs::gif::GifEncoder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fails_with, json, vila_u};

fn blue(path: &Path) {
    let picture = RgbImage::from_pixel(64, 64, Rgb([38, 98, 217]));
    picture.save(path).unwrap();
}

fn lines(path: &Path, lines: &[Value]) {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(path, text.join("\n")).unwrap();
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn samples(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("samples.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn value(record: &Value, name: &str) -> f64 {
    let metrics = record["metrics"].as_array().unwrap();
    let metric = metrics.iter().find(|metric| metric["name"] == name);
    metric.unwrap_or_else(|| panic!("no {name} in {record}"))["value"]
        .as_f64()
        .unwrap()
}

/// A folder with a picture, what is no picture, and questions about both.
fn questions() -> TempDir {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    blue(&at("blue.png"));
    fs::write(at("broken.png"), "no picture").unwrap();
    let colour = "What color is the background?";
    lines(
        &at("questions.jsonl"),
        &[
            json!({"id": "a", "image": "blue.png", "question": colour, "answers": ["Blue.", "navy"]}),
            json!({"id": "b", "image": "blue.png", "question": colour, "answer": "red"}),
            json!({"id": "c", "question": "What has four legs?", "answer": "nothing of it"}),
            json!({"id": "d", "image": "broken.png", "question": colour, "answer": "blue"}),
        ],
    );
    folder
}

#[test]
fn questions_of_ones_own_are_asked_once_and_scored() {
    let folder = questions();
    let asked = ["eval", "answers", "questions.jsonl", "-o", "out"];
    let arguments = [&asked[..], &["--suffix", "", "--max-tokens", "16"]].concat();
    let record = &json(folder.path(), &arguments)[0];
    let out = folder.path().join("out");
    assert_eq!(*record, read(out.join("result.json")));
    assert_eq!(record["evaluation"], "answers");
    assert_eq!(record["metrics"][0]["n"], 3);
    assert!(
        (value(record, "accuracy") - 1.0 / 3.0).abs() < 1e-12,
        "{record}"
    );
    assert_eq!(record["metrics"][0]["interval"], "wilson");
    assert_eq!(record["skipped"].as_object().unwrap().len(), 1);
    assert_eq!(record["data"][0]["n"], 4);
    assert_eq!(record["model"]["name"], "nano");
    let replies = samples(&out);
    assert_eq!(replies.len(), 3);
    let right = replies.iter().find(|sample| sample["id"] == "a").unwrap();
    assert_eq!(
        (&right["accuracy"], &right["prediction"]),
        (&json!(1.0), &json!("blue"))
    );

    // What was stopped goes on: a reply that is there is not asked for again.
    let mut kept = right.clone();
    kept["prediction"] = "red".into();
    let text = format!("{kept}\n{{\"id\": \"b\", \"pred");
    fs::write(out.join("samples.jsonl"), text).unwrap();
    let again = &json(folder.path(), &arguments)[0];
    assert_eq!(value(again, "accuracy"), 0.0);
    assert_eq!(samples(&out).len(), 3);

    // Other questions, another way of asking: another folder.
    for change in [
        ["--suffix", "", "--max-tokens", "17"],
        ["--suffix", "In one word.", "--max-tokens", "16"],
    ] {
        let output = vila_u(folder.path(), &[&asked[..], &change].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains("out has replies") && message.contains("-o"),
            "{message}"
        );
    }

    // People see a line for each number, and what was left out.
    let output = vila_u(folder.path(), &arguments);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("accuracy  0.0000 ["), "{table}");
    assert!(table.contains("left out 1"), "{table}");
}

#[test]
fn metrics_of_pope_vqa_and_choices() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("val2014")).unwrap();
    blue(&at("val2014/COCO_val2014_000000000001.png"));
    let image = "COCO_val2014_000000000001.png";
    let pope = |id: u32, text: &str, label: &str| json!({"question_id": id, "image": image, "text": text, "label": label});
    lines(
        &at("coco_pope_random.json"),
        &[
            pope(1, "Is there a snowboard in the image?", "yes"),
            pope(2, "Is there a cat in the image?", "no"),
        ],
    );
    let people = |answer: &str| -> Value {
        (1..=10)
            .map(|id| json!({"answer": answer, "answer_id": id}))
            .collect()
    };
    let colour = "What color is the background?";
    lines(
        &at("vqa.jsonl"),
        &[
            json!({"question_id": 1, "image": image, "question": colour, "answers": people("the Blue")}),
            json!({"question_id": 2, "image": image, "question": colour, "answers": people("two")}),
        ],
    );
    lines(
        &at("seed.jsonl"),
        &[
            json!({"id": 1, "image": image, "question": colour, "choices": ["red", "blue"], "answer": "B"}),
        ],
    );
    let eval = |file: &str, metric: &str, extra: &[&str]| {
        let arguments = [
            "eval", "answers", file, "--metric", metric, "--media", "val2014", "-o", metric,
        ];
        json(
            folder.path(),
            &[&arguments[..], &["--max-tokens", "8"], extra].concat(),
        )
        .remove(0)
    };
    let record = eval("coco_pope_random.json", "yes-no", &[]);
    for name in ["accuracy", "f1", "yes", "unclear", "recall"] {
        assert!((0.0..=1.0).contains(&value(&record, name)), "{name}");
    }
    assert!(
        record["definitions"]["accuracy"]
            .as_str()
            .unwrap()
            .contains("POPE")
    );
    let record = eval("vqa.jsonl", "vqa", &["--suffix", ""]);
    assert_eq!(value(&record, "accuracy"), 0.5);
    let record = eval("seed.jsonl", "multiple-choice", &["--suffix", ""]);
    assert_eq!(record["settings"]["suffix"], "");
    assert!((0.0..=1.0).contains(&value(&record, "accuracy")));
    // A metric for which the set is not made.
    let output = vila_u(
        folder.path(),
        &["eval", "answers", "vqa.jsonl", "--metric", "yes-no"],
    );
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("neither yes nor no"), "{message}");
}

#[test]
fn bad_questions_cost_a_line() {
    let folder = questions();
    let at = |name: &str| folder.path().join(name);
    let check = |arguments: &[&str], code: i32, expected: &str| {
        let all = [&["eval", "answers"], arguments].concat();
        fails_with(folder.path(), &all, code, &[expected]);
    };
    check(&["none.jsonl"], 1, "none.jsonl");
    fs::write(
        at("cut.jsonl"),
        "{\"question\": \"a\", \"answer\": \"b\"}\n{\"questi",
    )
    .unwrap();
    check(&["cut.jsonl"], 1, "record 2");
    lines(
        &at("all.jsonl"),
        &[json!({"image": "broken.png", "question": "a", "answer": "b"})],
    );
    check(&["all.jsonl", "-o", "all"], 1, "none of the questions");
    assert!(!at("all/result.json").exists());
    check(&["questions.jsonl", "--metric", "bleu"], 2, "bleu");
    check(
        &["questions.jsonl", "--temperature", "0"],
        2,
        "--temperature",
    );
    check(
        &["questions.jsonl", "-o", "blue.png"],
        2,
        "blue.png is a file",
    );
    fs::create_dir(at("damaged")).unwrap();
    fs::write(at("damaged/samples.jsonl"), "nothing\n").unwrap();
    check(&["questions.jsonl", "-o", "damaged"], 1, "samples.jsonl");
}

/// As on a full disk: files of this process may not grow beyond half a kilobyte.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_no_reply() {
    let folder = TempDir::new().unwrap();
    let question = |id: u32| json!({"id": format!("question number {id}"), "question": "What has four legs?", "answer": "a cat"});
    lines(
        &folder.path().join("q.jsonl"),
        &(1..=20).map(question).collect::<Vec<_>>(),
    );
    let arguments = [
        "eval",
        "answers",
        "q.jsonl",
        "-o",
        "out",
        "--max-tokens",
        "4",
    ];
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_vila-u"))
        .args(arguments)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("samples.jsonl") && message.lines().count() == 1,
        "{message}"
    );
    let kept = fs::read_to_string(folder.path().join("out/samples.jsonl")).unwrap();
    let kept = kept.matches('\n').count();
    assert!((1..20).contains(&kept), "{kept}");
    let record = &json(folder.path(), &arguments)[0];
    assert_eq!(record["metrics"][0]["n"], 20);
}

/// A judge that calls `reply` what each request says, and how many it was sent.
fn judge(
    reply: impl Fn(usize, &str) -> (u16, String) + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = receive(&mut stream);
            let (status, content) = reply(seen.fetch_add(1, Ordering::SeqCst), &request);
            let body = json!({"choices": [{"message": {"content": content}}]}).to_string();
            let length = body.len();
            let head = "retry-after: 0\r\nconnection: close";
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{head}\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    (url, count)
}

/// The body of a request.
fn receive(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

/// `videos/NAME`, an animated GIF.
fn video(folder: &Path, name: &str) {
    let path = folder.join("videos").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let frame = |blue: u8| Frame::new(RgbaImage::from_pixel(64, 64, Rgba([90, 20, blue, 255])));
    let mut gif = GifEncoder::new(fs::File::create(path).unwrap());
    gif.encode_frames((0..10).map(|number| frame(number * 20)))
        .unwrap();
}

#[test]
fn all_four_sets_are_read_as_they_were_released() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    video(folder.path(), "vid1.gif");
    let gif = fs::read(at("videos/vid1.gif")).unwrap();
    for name in ["video7020.gif", "tumblr_a_400.gif", "v_1QIUV7WYKXg.gif"] {
        fs::write(at("videos").join(name), &gif).unwrap();
    }
    let record = |video: u32| json!([{"id": 3, "video_id": video, "question": "what moves?", "answer": "heart"}]);
    fs::write(at("msvd.json"), record(1).to_string()).unwrap();
    fs::write(at("msrvtt.json"), record(7020).to_string()).unwrap();
    let table = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n\
        tumblr_a_400\twhat moves ?\theart\t0\t1\tFRAMEQA1\ta heart moves .\n";
    fs::write(at("Test_frameqa_question.csv"), table).unwrap();
    let id = "v_1QIUV7WYKXg_3";
    let question =
        json!([{"video_name": "1QIUV7WYKXg", "question": "what moves", "question_id": id}]);
    fs::write(at("test_q.json"), question.to_string()).unwrap();
    let answer = json!([{"answer": "heart", "type": 5, "question_id": id}]);
    fs::write(at("test_a.json"), answer.to_string()).unwrap();
    for (set, questions, answers) in [
        ("msvd-qa", "msvd.json", None),
        ("msrvtt-qa", "msrvtt.json", None),
        ("tgif-qa", "Test_frameqa_question.csv", None),
        ("activitynet-qa", "test_q.json", Some("test_a.json")),
    ] {
        let mut arguments = vec!["eval", "video-qa", set, "--questions", questions];
        arguments.extend(
            answers
                .map(|file| ["--answers", file])
                .into_iter()
                .flatten(),
        );
        arguments.extend(["--videos", "videos", "--judge", "none", "--max-tokens", "8"]);
        let record = &json(folder.path(), &arguments)[0];
        assert_eq!(
            (&record["evaluation"], &record["metrics"][0]["n"]),
            (&json!(set), &json!(1))
        );
        assert!(at("results").join(set).join("result.json").is_file());
    }
}

/// Five questions about a video that is there, and one about one that is not.
fn msvd() -> TempDir {
    let folder = TempDir::new().unwrap();
    video(folder.path(), "vid1.gif");
    let question = |id: u32, video: u32| json!({"id": id, "video_id": video, "question": format!("what moves {id}?"), "answer": "heart"});
    let questions: Value = (1..=5)
        .map(|id| question(id, 1))
        .chain([question(6, 2)])
        .collect();
    fs::write(folder.path().join("test_qa.json"), questions.to_string()).unwrap();
    folder
}

fn judged(folder: &TempDir, url: &str, more: &[&str]) -> Output {
    let arguments = [
        "--json",
        "eval",
        "video-qa",
        "msvd-qa",
        "--questions",
        "test_qa.json",
        "--videos",
        "videos",
    ];
    Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(arguments)
        .args(["--judge", url, "-o", "out", "--max-tokens", "8"])
        .args(more)
        .env("OPENAI_API_KEY", "secret")
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(folder.path())
        .output()
        .unwrap()
}

const MODEL: [&str; 2] = ["--judge-model", "grader"];

#[test]
fn a_judge_is_asked_until_it_says_yes_or_no() {
    let folder = msvd();
    // Busy once, then nonsense about the first question, then yes to all but the last.
    let (url, count) = judge(|number, request| match number {
        0 => (429, String::new()),
        _ if request.contains("what moves 1?") => (200, "It depends.".into()),
        _ if request.contains("what moves 5?") => (200, "{'pred': 'no', 'score': 0}".into()),
        _ => (200, "Sure: {'pred': 'yes', 'score': 4.8}".into()),
    });
    let output = judged(&folder, &url, &MODEL);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (value(&record, "accuracy"), value(&record, "score")),
        (0.75, 3.0)
    );
    assert_eq!(record["settings"]["judge"]["model"], "grader");
    assert_eq!(record["settings"]["judge"]["nonsense_replies"], 3);
    assert_eq!(record["skipped"]["the judge gave no verdict"], 1);
    assert_eq!(record["skipped"]["the video is not in the folder"], 1);
    assert_eq!(count.load(Ordering::SeqCst), 1 + 3 + 4);
    let everything = format!("{record}{:?}", samples(&folder.path().join("out")));
    assert!(!everything.contains("secret"));
    // Only what has no verdict is judged again.
    judged(&folder, &url, &MODEL);
    assert_eq!(count.load(Ordering::SeqCst), 8 + 3);
}

#[test]
fn what_keeps_a_judge_from_judging_is_said_and_nothing_lost() {
    let folder = msvd();
    let (url, _) = judge(|number, _| match number {
        0..3 => (200, "{'pred': 'yes', 'score': 5}".into()),
        _ => (401, String::new()),
    });
    let output = judged(&folder, &url, &MODEL);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("401") && message.lines().count() == 1,
        "{message}"
    );
    let out = folder.path().join("out");
    assert_eq!(samples(&out).len(), 5);
    assert_eq!(samples(&out.join("judge")).len(), 3);
    assert!(!out.join("result.json").exists());
    let (url, count) = judge(|_, _| (200, "{'pred': 'no', 'score': 1}".into()));
    let output = judged(&folder, &url, &MODEL);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (value(&record, "accuracy"), count.load(Ordering::SeqCst)),
        (0.6, 2)
    );

    for (arguments, expected) in [
        (vec!["--judge-prompt", "test_qa.json"], "--judge-model"),
        (
            [&MODEL[..], &["--judge-prompt", "none.json"]].concat(),
            "none.json",
        ),
        (
            [&MODEL[..], &["--judge-prompt", "test_qa.json"]].concat(),
            "list of messages",
        ),
        (
            [&MODEL[..], &["--judge", "grader"]].concat(),
            "cannot be used",
        ),
    ] {
        let output = judged(&folder, &url, &arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && message.contains(expected),
            "{message}"
        );
    }
    let missing = [
        "eval",
        "video-qa",
        "msrvtt-qa",
        "--questions",
        "test_qa.json",
        "--videos",
        "videos",
        "--judge",
        "none",
    ];
    let output = vila_u(folder.path(), &missing);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("video1.mp4"), "{message}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_judged() {
    let folder = msvd();
    let (url, count) = judge(|number, _| match number {
        0 => (200, "{'pred': 'yes', 'score': 5}".into()),
        _ => {
            thread::sleep(std::time::Duration::from_millis(500));
            (429, String::new())
        }
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args([
            "eval",
            "video-qa",
            "msvd-qa",
            "--questions",
            "test_qa.json",
            "--videos",
            "videos",
        ])
        .args(["--judge", &url, "-o", "out", "--max-tokens", "8"])
        .args(MODEL)
        .env("NO_PROXY", "127.0.0.1")
        .current_dir(folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while count.load(Ordering::SeqCst) < 2 {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: sends a signal to a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut message = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut message)
        .unwrap();
    assert!(message.contains("interrupted"), "{message}");
    let out = folder.path().join("out");
    assert_eq!(
        (samples(&out).len(), samples(&out.join("judge")).len()),
        (5, 1)
    );
    assert!(!out.join("result.json").exists());
}
