//go:build !linux || (!amd64 && !arm64)

package main

// programs are those that transcripts have beside krypton. A program whose date is
// another needs interfaces of Linux.
func programs() map[string]func() { return nil }
