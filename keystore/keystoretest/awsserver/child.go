package awsserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// child is the running localkms.
type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	client *http.Client
	closed func() error
}

// Program returns the path of localkms as scripts/tool of the module around the
// working directory has it, which builds it on first use. It fails where it
// cannot be built.
func Program(ctx context.Context) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tools", "localkms", "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no program given, and the working directory is not in Krypton's source, where scripts/tool localkms would build it")
		}
		dir = up
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "scripts", "tool"), "localkms")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build localkms: %w: %s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

func startChild(ctx context.Context, program, dir, region, account string) (*child, error) {
	socket := filepath.Join(dir, "kms.sock")
	// The child outlives ctx, which bounds the start only.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, "-socket", socket, "-data", filepath.Join(dir, "data"), "-region", region, "-account", account)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, client: &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 32,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
	c.closed = sync.OnceValue(c.end)
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err == nil && line != "ready\n" {
			err = fmt.Errorf("localkms says %q", line)
		}
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start localkms: %w", err), c.close())
	}
	return c, nil
}

// close ends the child by ending its input. It is idempotent.
func (c *child) close() error { return c.closed() }

func (c *child) end() error {
	c.client.CloseIdleConnections()
	err := c.stdin.Close()
	if e := c.cmd.Wait(); e != nil {
		return errors.Join(err, fmt.Errorf("localkms: %w", e))
	}
	return err
}

// answer is one answer of the child.
type answer struct {
	status int
	body   []byte
}

// code returns the error code of a failed answer.
func (a answer) code() (code, message string) {
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if a.status == http.StatusOK || json.Unmarshal(a.body, &e) != nil {
		return "", ""
	}
	return e.Type, e.Message
}

// call makes a call of the child, target being "TrentService.Encrypt".
func (c *child) call(ctx context.Context, target string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localkms/", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Amz-Target", target)
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	res, err := c.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	return answer{status: res.StatusCode, body: b}, err
}

// own makes a call for the owner of the keys, who is not subject to policies.
func (c *child) own(ctx context.Context, target string, in map[string]any, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	a, err := c.call(ctx, target, body)
	if err != nil {
		return err
	}
	if code, message := a.code(); a.status != http.StatusOK {
		return fmt.Errorf("%s: %d %s %s", target, a.status, code, message)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(a.body, out)
}
