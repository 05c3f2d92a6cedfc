// Command fanfare is every part of Fanfare in one program: the server, the
// worker, the stand-in providers, everything together on one machine, and the
// commands that a person types.
//
// It wires and decides nothing: each command reads its settings, puts together
// what other packages do, and prints what came of it. It promises that wrong
// settings and wrong arguments are reported all at once, before anything is
// done, and that the exit codes are those in the help.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
