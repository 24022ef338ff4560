//! Speed and memory: the benchmark, models of full size that take no room, and what generation needs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{json, recorded_json, vila_u};

fn positive(value: &Value, field: &str) -> f64 {
    let number = value[field].as_f64();
    let number = number.unwrap_or_else(|| panic!("no {field} in {value}"));
    assert!(number > 0.0 && number.is_finite(), "{field} {number}");
    number
}

/// The case of that name.
fn case<'a>(report: &'a Value, name: &str) -> &'a Value {
    let cases = report["cases"].as_array().unwrap();
    let case = cases.iter().find(|case| case["case"] == name);
    case.unwrap_or_else(|| panic!("no case {name} in {report}"))
}

#[test]
fn the_nano_suite_times_what_a_first_try_costs() {
    let folder = TempDir::new().unwrap();
    let arguments = ["bench", "--suite", "nano", "-o", "report"];
    let report = &json(folder.path(), &arguments)[0];
    for field in ["read_gb_per_s", "copy_gb_per_s", "matmul_gflop_per_s"] {
        positive(&report["machine"], field);
    }
    for name in ["start", "first_token"] {
        let case = case(report, name);
        assert_eq!(case["suite"], "nano");
        assert!(positive(case, "ms") <= positive(case, "median_ms"));
        assert!(positive(case, "runs") >= 2.0);
    }
    if cfg!(target_os = "linux") {
        positive(&report["peak_memory"], "nano");
    }
    let written = fs::read(folder.path().join("report/bench.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), *report);
}

#[test]
fn the_generate_suite_times_images_at_once_and_a_video() {
    let folder = TempDir::new().unwrap();
    let report = &recorded_json(folder.path(), &["bench", "--suite", "generate"])[0];
    for (name, images) in [
        ("generate_1", 1.0),
        ("generate_4", 4.0),
        ("generate_16", 16.0),
        ("generate_64", 64.0),
        ("video_8", 8.0),
    ] {
        let case = case(report, name);
        assert_eq!(case["suite"], "generate");
        assert!(positive(case, "ms") <= positive(case, "median_ms"));
        assert!(positive(case, "runs") >= 2.0);
        let seconds = positive(case, "ms") / 1e3;
        assert!((positive(case, "images_per_s") * seconds - images).abs() < 1e-6);
    }
}

#[test]
fn suites_of_a_model_say_how_near_the_machine_they_come() {
    let folder = TempDir::new().unwrap();
    for (suite, name, rate, share) in [
        ("decode", "layers", "gb_per_s", "of_read_bandwidth"),
        ("depth", "position_d4", "gb_per_s", "of_read_bandwidth"),
        ("tower", "encode_64", "gflop_per_s", "of_matmul_peak"),
        ("tower", "quantize_64", "gflop_per_s", "of_matmul_peak"),
        ("tower", "decode_64", "gflop_per_s", "of_matmul_peak"),
    ] {
        let report = &recorded_json(folder.path(), &["bench", "--suite", suite])[0];
        let case = case(report, name);
        positive(case, rate);
        positive(case, share);
    }
}

#[test]
fn a_random_model_of_full_size_takes_no_room() {
    let folder = TempDir::new().unwrap();
    for (name, codes) in [
        ("vila-u-7b-256", [16, 16, 4]),
        ("vila-u-7b-384", [27, 27, 16]),
    ] {
        json(folder.path(), &["info", "--random", name, "-o", name]);
        assert!(bytes(&folder.path().join(name)) < 2_000_000, "{name}");
        let info = &json(folder.path(), &["info", name])[0];
        assert_eq!(info["bytes"], 0);
        assert_eq!(info["visual"]["codes"], serde_json::json!(codes));
        let parameters = positive(info, "parameters");
        assert!((7.5e9..9e9).contains(&parameters), "{name}: {parameters}");
        let tokens = json(folder.path(), &["--model", name, "tokenize", "a red heart"]);
        assert!(!tokens[0]["ids"].as_array().unwrap().is_empty());
    }
    let again = vila_u(
        folder.path(),
        &["info", "--random", "vila-u-7b-256", "-o", "vila-u-7b-384"],
    );
    assert_eq!(again.status.code(), Some(2), "overwrote a checkpoint");
}

fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            bytes(&entry.path())
        } else {
            entry.metadata().unwrap().len()
        }
    });
    sizes.sum()
}

/// What `info` says that generation needs is between half and twice what it takes.
#[test]
#[cfg(target_os = "linux")]
fn generation_takes_the_memory_that_info_says() {
    let folder = TempDir::new().unwrap();
    let info = &json(folder.path(), &["info"])[0];
    let n = 64;
    let estimate = &info["images"];
    assert!(positive(estimate, "at_once") >= f64::from(n));
    let predicted = positive(&info["memory"], "f32")
        + positive(estimate, "fixed")
        + f64::from(n) * positive(estimate, "per_image");
    let mut child = Command::new(env!("CARGO_BIN_EXE_vila-u"))
        .args(["generate", "a red heart", "-o", "hearts", "-n"])
        .arg(n.to_string())
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        if let Some(kilobytes) = kilobytes {
            peak = 1024.0 * kilobytes.parse::<f64>().unwrap();
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ratio = peak / predicted;
    assert!((0.5..2.0).contains(&ratio), "{peak} bytes, not {predicted}");
}
