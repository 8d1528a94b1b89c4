package main

var blocks [][]byte

func main() {
	for {
		block := make([]byte, 16<<20)
		for at := 0; at < len(block); at += 4096 {
			block[at] = 1
		}
		blocks = append(blocks, block)
	}
}
