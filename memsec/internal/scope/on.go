//go:build goexperiment.runtimesecret

package scope

import (
	"runtime"
	"runtime/secret"
)

// Erases reports whether [Do] erases what the function left in registers, on
// the stack and, after a collection, on the heap. The runtime does so on two
// platforms only and silently runs the function as it is on the others.
const Erases = runtime.GOOS == "linux" && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")

// Do runs fn and erases what it left behind. fn must not call into C.
func Do(fn func()) { secret.Do(fn) }
