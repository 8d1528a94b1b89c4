extern "C" {
    fn raise(signal: i32) -> i32;
}

fn main() {
    println!("last line");
    unsafe { raise(9) };
}
