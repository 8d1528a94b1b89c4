fn main() {
    println!("hello from stdout");
    eprintln!("hello from stderr");
}
