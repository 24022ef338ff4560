//! `vila-u serve` as a user or a service manager starts and ends it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::vila_u;

/// A server, the address that it says, and what else it will say.
fn start(arguments: &[&str]) -> (Child, String, BufReader<std::process::ChildStderr>) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["serve", "--port", "0"])
        .args(arguments)
        .env("VILA_U_API_KEY", "secret")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://");
    let address = address.unwrap_or_else(|| panic!("{line}"));
    (server, address.to_string(), lines)
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[cfg(unix)]
#[test]
fn a_server_answers_until_it_is_asked_to_end() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (mut server, address, mut lines) = start(&[]);
        assert!(get(&address, "/health").starts_with("HTTP/1.1 200"));
        assert!(get(&address, "/v1/models").starts_with("HTTP/1.1 401"));
        let taken = address.rsplit(':').next().unwrap();
        let second = vila_u(Path::new("."), &["serve", "--port", taken]);
        let message = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(1), "{message}");
        assert!(
            message.contains("in use") && message.lines().count() == 1,
            "{message}"
        );
        // SAFETY: sends a signal to a child that was not waited for.
        unsafe { libc::kill(server.id() as i32, signal) };
        assert_eq!(server.wait().unwrap().code(), Some(0));
        let mut log = String::new();
        lines.read_to_string(&mut log).unwrap();
        let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&line["path"], &line["status"]),
            (&"/health".into(), &200.into())
        );
    }
}

#[test]
fn a_quiet_server_says_where_it_listens_alone() {
    let (mut server, address, mut lines) = start(&["--quiet", "--api-key", "other"]);
    get(&address, "/health");
    server.kill().unwrap();
    server.wait().unwrap();
    let mut log = String::new();
    lines.read_to_string(&mut log).unwrap();
    assert_eq!(log, "");
}

#[test]
fn wrong_options_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (&["--media-path", "none"][..], "no such folder"),
        (&["--api-key", ""], "API key"),
        (&["--drain", "soon"], "--drain"),
        (&["--port", "99999"], "--port"),
    ] {
        let mut all = vec!["serve"];
        all.extend(arguments);
        let output = vila_u(folder.path(), &all);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}
