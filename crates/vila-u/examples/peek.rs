use image::{RgbImage, imageops};
use vila_u::data::nano::*;
fn sheet(name: &str, pics: Vec<RgbImage>, cols: u32) {
    let s = pics[0].width() + 2;
    let rows = pics.len().div_ceil(cols as usize) as u32;
    let mut out = RgbImage::from_pixel(cols * s, rows * s, image::Rgb([128, 128, 128]));
    for (i, p) in pics.iter().enumerate() {
        imageops::replace(
            &mut out,
            p,
            (i as u32 % cols * s) as i64,
            (i as u32 / cols * s) as i64,
        );
    }
    out.save(name).unwrap();
}
fn main() {
    let inv = emoji::inventory();
    println!("inventory {}", inv.len());
    for (i, e) in inv.iter().enumerate() {
        print!(
            "{i} {} {} / {}; ",
            e.character,
            e.with_article(),
            e.plural()
        );
    }
    println!(
        "\ngallery {} {}",
        emoji::gallery(false).len(),
        emoji::gallery(true).len()
    );
    for e in emoji::gallery(false) {
        print!("{}{};", e.character, e.name);
    }
    println!();
    for e in emoji::gallery(true) {
        print!("{}{};", e.character, e.name);
    }
    println!();
    sheet(
        "/tmp/da_inv.png",
        inv.iter()
            .map(|e| Scene::plain(*e, scene::COLOURS[7]).render(64))
            .collect(),
        16,
    );
    sheet(
        "/tmp/da_gal.png",
        emoji::gallery(false)
            .iter()
            .map(|e| Scene::plain(*e, scene::COLOURS[4]).render(48))
            .collect(),
        32,
    );
    sheet(
        "/tmp/da_galh.png",
        (0..128)
            .map(|i| Scene::sample_gallery(Split::HeldOut, 0, i).render(64))
            .collect(),
        16,
    );
    let scenes: Vec<_> = (0..160)
        .map(|i| Scene::sample(Split::Train, 0, i))
        .collect();
    for (i, s) in scenes.iter().take(48).enumerate() {
        println!("{i} {}", s.caption());
        for q in s.questions() {
            println!("     {:?} {} -> {}", q.kind, q.question, q.answer);
        }
    }
    sheet(
        "/tmp/da_train.png",
        scenes.iter().map(|s| s.render(64)).collect(),
        16,
    );
    for (c, col) in scene::COLOURS.iter().enumerate() {
        let bad: Vec<_> = inv
            .iter()
            .filter(|e| !scene::stands_out(e, *col))
            .map(|e| e.name)
            .collect();
        println!("{c} {} {:?}", col.name, bad);
    }
    let t = std::time::Instant::now();
    for i in 0..5000 {
        std::hint::black_box(Scene::sample(Split::Train, 1, i).render(64));
    }
    println!("{:.0} scenes/s", 5000.0 / t.elapsed().as_secs_f64());
    let t = std::time::Instant::now();
    for i in 0..5000 {
        std::hint::black_box(Scene::sample_gallery(Split::Train, 1, i).render(64));
    }
    println!("{:.0} gallery/s", 5000.0 / t.elapsed().as_secs_f64());
    let t = std::time::Instant::now();
    for i in 0..5000 {
        std::hint::black_box(Scene::sample_gallery(Split::Train, 1, i).render(64));
    }
    println!("{:.0} gallery/s again", 5000.0 / t.elapsed().as_secs_f64());
    let held = (0..2000)
        .filter(|i| {
            let mut s = Scene::sample(Split::Train, 5, *i);
            s.background = scene::COLOURS[(*i % 9) as usize];
            s.held_out()
        })
        .count();
    println!("held {held}/2000 (after recolour)");
    println!(
        "heart on blue held out: {}",
        Scene::plain(*emoji::named("red heart").unwrap(), scene::COLOURS[4]).held_out()
    );
}
