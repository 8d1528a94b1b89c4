fn main() {
    let mut blocks = Vec::new();
    loop {
        blocks.push(vec![1_u8; 16 << 20]);
        // Says something about every block, so that no compiler finds them unused.
        eprintln!("{}", blocks.iter().map(|block| usize::from(block[0])).sum::<usize>());
    }
}
