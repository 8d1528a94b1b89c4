fn main() {
    println!("before");
    panic!("uncaught");
}
