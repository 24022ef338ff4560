#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use super::*;

/// A server that gives one answer after the other, status and body each with headers of its own, and then stops; what it
/// was sent.
fn server(answers: Vec<(&'static str, String)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    thread::spawn(move || {
        for (head, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut length, mut request) = (0, String::new());
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                request += &line;
            }
            let mut content = vec![0; length];
            reader.read_exact(&mut content).unwrap();
            request += &String::from_utf8(content).unwrap();
            seen.lock().unwrap().push(request);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, requests)
}

fn says(reply: &str) -> (&'static str, String) {
    let body = json!({"choices": [{"message": {"role": "assistant", "content": reply}}]});
    ("200 OK", body.to_string())
}

fn judge(url: &str) -> Judge {
    Judge::new(url, "grader", Some("secret".into()), JudgePrompt::default()).unwrap()
}

fn case(prediction: &str) -> Case<'_> {
    Case {
        question: "What runs?",
        answer: "a cat",
        prediction,
    }
}

fn going(_: &str, _: usize, _: usize) -> bool {
    true
}

#[test]
fn busy_servers_and_nonsense_are_asked_again_and_verdicts_kept() {
    let busy = "429 Too Many Requests\r\nretry-after: 0";
    let (url, requests) = server(vec![
        (busy, r#"{"error": {"message": "slow down"}}"#.into()),
        ("503 Unavailable\r\nretry-after: 0.01", "<html>".into()),
        says("I cannot tell."),
        says("{'pred': 'yes', 'score': 4}"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let judge = judge(&url);
    let cases = [case("the cat"), case("the cat")];
    let judged = judge.judge(&cases, folder.path(), &mut going).unwrap();
    let verdict = Some(Verdict {
        right: true,
        score: 4.0,
    });
    assert_eq!(judged.verdicts, [verdict, verdict]);
    assert_eq!(judged.nonsense, 1);
    let requests = requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 4);
    assert!(requests[0].starts_with("POST /v1/chat/completions HTTP/1.1"));
    assert!(requests[0].contains("authorization: Bearer secret"));
    assert!(
        requests[2].contains(r#""temperature":0.0"#)
            && requests[3].contains(r#""temperature":1.0"#)
    );
    // Nobody is asked for what is known.
    let judged = judge.judge(&cases, folder.path(), &mut going).unwrap();
    assert_eq!((judged.verdicts, judged.nonsense), (vec![verdict; 2], 0));
}

#[test]
fn what_a_judge_refuses_is_said_in_a_line() {
    let refused = r#"{"error": {"message": "Incorrect\nAPI key"}}"#;
    for (answer, expected) in [
        (
            ("401 Unauthorized", refused.to_string()),
            "answers 401 Unauthorized Incorrect API key",
        ),
        (("404 Not Found", "<html>".into()), "answers 404 Not Found"),
        (("200 OK", "{}".into()), "no chat completion"),
        (
            ("429 Busy\r\nretry-after: 86400", String::new()),
            "run the same command again later",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (url, _) = server(vec![answer]);
        let judged = judge(&url).judge(&[case("")], folder.path(), &mut going);
        let error = judged.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&url), "{error}");
        assert!(
            !error.contains('\n') && !error.contains("secret"),
            "{error}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let judged = judge("http://127.0.0.1:1").judge(&[case("")], folder.path(), &mut going);
    assert!(
        judged
            .unwrap_err()
            .to_string()
            .contains("cannot be reached")
    );
    assert!(Judge::new("api.openai.com", "x", None, JudgePrompt::default()).is_err());
}

#[test]
fn models_that_take_no_temperature_are_asked_without() {
    let refused = r#"{"error": {"message": "Unsupported value: 'temperature'"}}"#;
    let verdict = "{'pred': 'no', 'score': 0}";
    let answers = vec![("400 Bad Request", refused.to_string()), says(verdict)];
    let (url, requests) = server(answers);
    let folder = tempfile::tempdir().unwrap();
    let judge = judge(&url);
    let judged = judge.judge(&[case("")], folder.path(), &mut going).unwrap();
    assert!(!judged.verdicts[0].unwrap().right);
    assert!(!requests.lock().unwrap()[1].contains("temperature"));
    assert_eq!(judge.settings()["temperature"], "its own");
}

#[test]
fn a_judge_without_a_verdict_leaves_the_reply_out() {
    let (url, _) = server(vec![says("yes"), says("{}"), says("5")]);
    let folder = tempfile::tempdir().unwrap();
    let judged = judge(&url)
        .judge(&[case("")], folder.path(), &mut going)
        .unwrap();
    assert_eq!((judged.verdicts, judged.nonsense), (vec![None], 3));
}

#[test]
fn it_stops_while_it_waits() {
    let (url, _) = server(vec![("429 Busy\r\nretry-after: 500", String::new())]);
    let folder = tempfile::tempdir().unwrap();
    let judged = judge(&url).judge(&[case("")], folder.path(), &mut |_, _, _| false);
    assert!(matches!(judged, Err(Error::Interrupted)));
}
