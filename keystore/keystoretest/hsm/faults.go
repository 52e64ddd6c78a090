//go:build unix

package hsm

import (
	"context"
	_ "embed" // The C source of the module that breaks calls.
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

//go:embed faults/faults.c
var faultsSource string

const faultsModule = "faults.so"

// buildFaults compiles the module that stands before another one.
func buildFaults(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "cc", "-std=gnu11", "-Wall", "-Werror", "-Wno-deprecated-non-prototype", "-O1", "-shared", "-fPIC", "-x", "c", "-o", filepath.Join(dir, faultsModule), "-", "-ldl")
	cmd.Stdin = strings.NewReader(faultsSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the module for faults: %w: %s", err, out)
	}
	return nil
}

// Fault is what happens to the calls of the token's user, see faults/faults.c.
// The owner's commands are not touched.
type Fault string

// The faults that take no number.
const (
	Hang      Fault = "hang"
	Crash     Fault = "crash"
	Nonsense  Fault = "nonsense"
	Logout    Fault = "logout"
	LoginHang Fault = "login: hang"
	OwnIV     Fault = "iv"
	ShortTag  Fault = "short"
)

// Slow makes searches come back late.
func Slow(milliseconds int64) Fault { return Fault(fmt.Sprintf("slow %d", milliseconds)) }

// Fail makes searches return the CKR.
func Fail(ckr uint) Fault { return Fault(fmt.Sprintf("fail 0x%x", ckr)) }

// Broken makes decryption and unwrapping return the CKR.
func Broken(ckr uint) Fault { return Fault(fmt.Sprintf("broken 0x%x", ckr)) }

// Login makes log-ins return the CKR, without asking the token.
func Login(ckr uint) Fault { return Fault(fmt.Sprintf("login: fail 0x%x", ckr)) }

// Break puts a fault into force until it is mended. One fault of log-ins and one
// of the rest can be in force. It needs Options.Faults.
func (s *Server) Break(f Fault) (mend func() error, err error) {
	path := s.control()
	text, login := strings.CutPrefix(string(f), "login: ")
	if login {
		path += ".login"
	}
	if err := os.WriteFile(path+".next", []byte(text+"\n"), 0o600); err != nil {
		return nil, err
	}
	mend = func() error {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return mend, os.Rename(path+".next", path)
}

// Logins counts the log-ins of the user, those that were broken as well. It needs Options.Faults.
func (s *Server) Logins() (int, error) {
	b, err := os.ReadFile(s.control() + ".logins")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return len(b), err
}

// Hangs returns a pipe with one byte for each search that began to hang. It needs Options.Faults.
func (s *Server) Hangs() (*os.File, error) {
	if err := syscall.Mkfifo(s.control()+".hangs", 0o600); err != nil {
		return nil, err
	}
	// For writing too, so that opening does not wait and reading has no end.
	return os.OpenFile(s.control()+".hangs", os.O_RDWR, 0)
}

func (s *Server) control() string { return filepath.Join(s.opts.Dir, "fault") }

// insert puts the module for faults before the token's.
func (s *Server) insert() {
	pairs := []string{"FAULTS_MODULE=" + s.Module, "FAULTS_CONTROL=" + s.control()}
	if s.Environment != "" {
		pairs = append(pairs, s.Environment)
	}
	s.Environment = strings.Join(pairs, ",")
	s.user = filepath.Join(s.opts.Programs, faultsModule)
}
