package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("hello from stdout")
	fmt.Fprintln(os.Stderr, "hello from stderr")
}
