package vaultserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Install is the command that builds the program.
const Install = "scripts/tool vaultserver"

// startTime bounds how long the program takes until it listens. It needs four
// seconds on two busy cores.
const startTime = 2 * time.Minute

// maxAnswer bounds what is read of one answer, in bytes.
const maxAnswer = 8 << 20

// Find returns the path of the program, or an error if it is not built. It runs
// scripts/tool of the module that the working directory is in.
func Find(ctx context.Context) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		tool := filepath.Join(dir, "scripts", "tool")
		if _, err := os.Stat(tool); err == nil {
			cmd := exec.CommandContext(ctx, tool, "--built", "vaultserver")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
			}
			return strings.TrimSpace(string(out)), nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no scripts/tool above the working directory")
		}
		dir = up
	}
}

// Options say how to start a server.
type Options struct {
	Binary string // path of the program; empty: as Find says
	Dir    string // an empty directory of the caller, for certificates, state and audit log; required
}

// Server is a running, unsealed Vault with an audit device.
type Server struct {
	URL     string // https://127.0.0.1:PORT
	CAFile  string // certificate to trust, PEM
	Version string // of Vault, as the server itself says
	Clients *Authority

	root, unsealKey string
	audit           string
	http            *http.Client
	stdin           io.Closer
	exited          chan struct{}
	waitErr         error
	stderr          *tail
	close           func() error
}

// state is the file that the program writes.
type state struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey string `json:"unseal_key"`
	Version   string `json:"version"`
}

// Start starts a server and waits until it answers.
func Start(ctx context.Context, opts Options) (_ *Server, err error) {
	binary := opts.Binary
	if binary == "" {
		if binary, err = Find(ctx); err != nil {
			return nil, fmt.Errorf("vaultserver is not built: %w; build it with %s", err, Install)
		}
	}
	authority, err := NewAuthority("vaultserver CA")
	if err != nil {
		return nil, err
	}
	s := &Server{
		CAFile: filepath.Join(opts.Dir, "ca.pem"), Clients: authority,
		audit: filepath.Join(opts.Dir, "audit.log"), exited: make(chan struct{}), stderr: &tail{},
	}
	s.close = sync.OnceValue(s.shutdown)
	cert, key, stateFile := filepath.Join(opts.Dir, "server.pem"), filepath.Join(opts.Dir, "server-key.pem"), filepath.Join(opts.Dir, "state.json")
	if err := authority.WriteServer(cert, key); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.CAFile, authority.PEM(), 0o600); err != nil {
		return nil, err
	}
	// Not bound to ctx, which is for the start alone.
	cmd := exec.Command(binary, "-cert", cert, "-key", key, "-state", stateFile)
	cmd.Env = []string{"HOME=" + opts.Dir, "PATH=/usr/bin:/bin"}
	cmd.Stderr = s.stderr
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan bool, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line == "ready\n"
		_, _ = io.Copy(io.Discard, stdout)
		s.waitErr = cmd.Wait()
		close(s.exited)
	}()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	select {
	case ok := <-ready:
		if !ok {
			return nil, fmt.Errorf("vaultserver ended before it was ready: %s", s.stderr)
		}
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("vaultserver is not ready: %w: %s", ctx.Err(), s.stderr)
	}
	if err := s.learn(ctx, stateFile); err != nil {
		return nil, err
	}
	return s, s.Admin(ctx, http.MethodPost, "sys/audit/file", map[string]any{
		"type": "file", "options": map[string]string{"file_path": s.audit},
	}, nil)
}

// learn reads what the program says about itself and asks the server for the rest.
func (s *Server) learn(ctx context.Context, stateFile string) error {
	b, err := os.ReadFile(stateFile)
	if err != nil {
		return err
	}
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return err
	}
	s.URL, s.root, s.unsealKey = st.Address, st.RootToken, st.UnsealKey
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.Clients.PEM())
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	var health struct{ Version string }
	if err := s.Admin(ctx, http.MethodGet, "sys/health", nil, &health); err != nil {
		return err
	}
	s.Version = health.Version
	if health.Version != st.Version {
		return fmt.Errorf("the server is Vault %s and the program was made for %s", health.Version, st.Version)
	}
	return nil
}

// Close ends the server and waits for it. It is idempotent.
func (s *Server) Close() error { return s.close() }

func (s *Server) shutdown() error {
	err := s.stdin.Close()
	<-s.exited
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
	if s.waitErr != nil {
		return fmt.Errorf("vaultserver: %w: %s", s.waitErr, s.stderr)
	}
	return err
}

// RefusedError is what the server said instead of doing what it was asked.
type RefusedError struct {
	Status int
	Body   string
}

// Error names status and words.
func (r *RefusedError) Error() string {
	return fmt.Sprintf("vault answers %d: %s", r.Status, strings.TrimSpace(r.Body))
}

// Admin calls the API with the root token. in and out are JSON; either may be
// nil. path is without /v1/.
func (s *Server) Admin(ctx context.Context, method, path string, in, out any) error {
	return s.Call(ctx, s.root, method, path, in, out)
}

// Call is Admin with another token, or none.
func (s *Server) Call(ctx context.Context, token, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+"/v1/"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %w", method, path, &RefusedError{res.StatusCode, string(b)})
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	return json.Unmarshal(b, out)
}

// tail keeps the last of what the program printed.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - 4096; over > 0 {
		t.b = t.b[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
