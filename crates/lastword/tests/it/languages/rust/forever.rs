fn main() {
    println!("started");
    loop {
        std::thread::park();
    }
}
