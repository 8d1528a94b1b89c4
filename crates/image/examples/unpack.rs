//! Unpacks one image into a cache and says how long it took: `unpack CACHE IMAGE [NAME]`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use lastword_image::{Cache, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (cache, path, name) = match &arguments[..] {
        [cache, path] => (cache, path, None),
        [cache, path, name] => (cache, path, Some(name.as_str())),
        _ => return Err("usage: unpack CACHE IMAGE [NAME]".into()),
    };
    let cache = Cache::open(Path::new(cache), 16 << 30)?;
    let start = Instant::now();
    let image = cache.unpack(Source::Path { path: Path::new(path), name })?;
    println!("{} in {:?}", image.digest, start.elapsed());
    println!("{}, {} bytes, {} entries left out", image.rootfs.display(), image.bytes, image.left_out);
    println!("{:#?}", image.config);
    Ok(())
}
