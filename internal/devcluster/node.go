//go:build unix

package devcluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/config"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
)

// stopGrace is how long a node may take to stop after SIGTERM before it is
// killed.
const stopGrace = 10 * time.Second

// probeTimeout bounds one question to a node, so that a node that hangs is
// asked again and shows its reason instead of using up the whole patience.
const probeTimeout = 2 * time.Second

// Node is one node of a [Cluster]: a data directory, and most of the time a
// process.
type Node struct {
	c    *Cluster
	name string

	mu    sync.Mutex
	proc  *process          // nil before the first start
	addrs cluster.Addresses // real ones once it ran
	id    string            // empty before it belongs to a cluster
	pids  []int             // of every process that ran
}

// Name returns the node's name for people: n1, n2, ...
func (n *Node) Name() string { return n.name }

// DataDir returns the node's data directory.
func (n *Node) DataDir() string { return filepath.Join(n.c.dir, n.name) }

// ConfigFile returns the path of the node's configuration.
func (n *Node) ConfigFile() string { return filepath.Join(n.c.dir, n.name+".yaml") }

// LogFile returns the path of the node's output, of all its runs.
func (n *Node) LogFile() string { return filepath.Join(n.c.dir, n.name+".log") }

// Addresses returns the addresses of the node's ports. They stay the same over
// restarts (I2).
func (n *Node) Addresses() cluster.Addresses {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addrs
}

// ID returns the node's id, 32 hex digits.
func (n *Node) ID() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

// PIDs returns the process ids of all runs of the node, the present one last.
func (n *Node) PIDs() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]int(nil), n.pids...)
}

// Running reports whether the node's process runs.
func (n *Node) Running() bool {
	p := n.process()
	return p != nil && !p.ended()
}

// Done is closed when the node's present process has ended. It is nil before
// the first start.
func (n *Node) Done() <-chan struct{} {
	if p := n.process(); p != nil {
		return p.done
	}
	return nil
}

// Ended says how the node's last process ended; empty while it runs.
func (n *Node) Ended() string {
	if p := n.process(); p != nil && p.ended() {
		return p.cmd.ProcessState.String()
	}
	return ""
}

func (n *Node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Start starts the node's process, on the addresses it had before if it ran
// before, and returns when it answers on its administration socket; with
// [Node.WaitServing] it also serves.
func (n *Node) Start(ctx context.Context) error {
	if err := n.launch(ctx); err != nil {
		return fmt.Errorf("start node %s: %w", n.name, err)
	}
	return n.wait(ctx, "node "+n.name+" answers", func(ctx context.Context) error {
		st, err := n.status(ctx)
		if err != nil {
			return err
		}
		a, err := cluster.ReadAddresses(n.DataDir())
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.addrs, n.id = a, st.GetSeal().GetNodeId()
		n.mu.Unlock()
		return n.writeConfig() // pins the ports
	})
}

// launch starts the process.
func (n *Node) launch(ctx context.Context) error {
	if n.c.closed.Load() {
		return errClosed()
	}
	if err := n.takePorts(ctx); err != nil {
		return err
	}
	if err := n.writeConfig(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.c.closed.Load() { // again, under the lock that Close takes after it has set it (I1)
		return errClosed()
	}
	if n.proc != nil && !n.proc.ended() {
		return errs.New(errs.FailedState, "it runs already")
	}
	// A stale file would be taken for the answer of the new process.
	if err := os.Remove(filepath.Join(n.DataDir(), "run", "addresses.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	run := Program{Binary: n.c.opts.Binary}
	if n.c.opts.Program != nil {
		run = n.c.opts.Program(n.name)
	}
	p, err := startProcess(run.Binary, []string{"server", "--config", n.ConfigFile()}, append(environment(os.Environ()), run.Env...), n.LogFile())
	if err != nil {
		return err
	}
	n.proc = p
	n.pids = append(n.pids, p.cmd.Process.Pid)
	return nil
}

func errClosed() error { return errs.New(errs.FailedState, "the cluster is closed") }

// takePorts chooses the ports of a node that never ran, and waits until those of
// one that did can be listened on: while it was down, somebody may have taken one.
func (n *Node) takePorts(ctx context.Context) error {
	a := n.Addresses()
	if a == (cluster.Addresses{}) {
		a, err := choosePorts()
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.addrs = a
		n.mu.Unlock()
		return nil
	}
	for _, addr := range []string{a.GRPC, a.REST, a.Peer, a.Ops} {
		err := until(ctx, n.c.clk, n.c.opts.Patience, addr+" is free", func(ctx context.Context) error {
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			return l.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) writeConfig() error {
	raw, err := nodeConfig(n.name, n.DataDir(), n.c.path(keystoreDir), n.c.opts.SegmentMiB, n.Addresses(), n.c.opts.Keystores)
	if err != nil {
		return err
	}
	return replaceFile(n.ConfigFile(), raw)
}

// readConfig takes the addresses from the configuration of an earlier run.
func (n *Node) readConfig() error {
	cfg, err := config.Load(config.Source{Path: n.ConfigFile()})
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs = cluster.Addresses{GRPC: cfg.Listen.GRPC, REST: cfg.Listen.REST, Peer: cfg.Listen.Peer, Ops: cfg.Listen.Ops}
	return nil
}

// Kill ends the process as a power cut would: SIGKILL, no clean-up. It returns
// when the process is gone.
func (n *Node) Kill() {
	if p := n.process(); p != nil {
		p.kill()
	}
}

// Pause stops the process as a debugger or an overloaded hypervisor does (SIGSTOP):
// it answers nobody, its connections stay, and it does not know. [Node.Resume] ends
// that.
func (n *Node) Pause() error { return n.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (n *Node) Resume() error { return n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) error {
	p := n.process()
	if p == nil || p.ended() {
		return errs.New(errs.FailedState, "node "+n.name+" does not run")
	}
	return p.cmd.Process.Signal(s)
}

// Stop asks the process to end (SIGTERM) and kills it after 10 s or when ctx
// ends. A node that does not stop when asked, or not with status 0, is an error.
func (n *Node) Stop(ctx context.Context) error {
	p := n.process()
	if p == nil {
		return nil
	}
	if err := p.terminate(); err != nil {
		return fmt.Errorf("stop node %s: %w", n.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return fmt.Errorf("stop node %s: it did not end when asked and was killed: %w", n.name, ctx.Err())
	}
	if p.err != nil {
		return fmt.Errorf("stop node %s: %w", n.name, p.err)
	}
	return nil
}

// WaitServing returns when the node says that it serves data operations and has
// the certificate without which no caller would speak to it.
func (n *Node) WaitServing(ctx context.Context) error {
	return n.wait(ctx, "node "+n.name+" serves", func(ctx context.Context) error {
		if err := n.ready(ctx); err != nil {
			return err
		}
		return n.handshake(ctx)
	})
}

// wait is until, ended early by the end of the node's process.
func (n *Node) wait(ctx context.Context, what string, try func(context.Context) error) error {
	return until(ctx, n.c.clk, n.c.opts.Patience, what, func(ctx context.Context) error {
		p := n.process()
		if p == nil {
			return final{errs.New(errs.FailedState, "node "+n.name+" was never started")}
		}
		if p.ended() {
			return final{errs.Newf(errs.Unavailable, "the process of node %s ended: %s", n.name, n.Ended()).
				With(errs.Hint("its output is in %s", n.LogFile()))}
		}
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		return try(ctx)
	})
}

// ready asks the operations port.
func (n *Node) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Addresses().Ops+"/readyz", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := n.c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %d: %s", n.name, resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return nil
}

// handshake meets the node as a caller does, and verifies it.
func (n *Node) handshake(ctx context.Context) error {
	ca, err := os.ReadFile(n.c.CAFile())
	if err != nil {
		return final{err}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, NextProtos: []string{"h2"}}}
	conn, err := d.DialContext(ctx, "tcp", n.Addresses().GRPC)
	if err != nil {
		return fmt.Errorf("%s does not show its certificate: %w", n.name, err)
	}
	return conn.Close()
}

// admin calls the node over its administration socket, which needs no
// certificate: whoever may open it is this user.
func (n *Node) admin(call func(kryptonv1.AdminClient) error) error {
	conn, err := grpc.NewClient("unix:"+socketPath(n.DataDir()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := call(kryptonv1.NewAdminClient(conn)); err != nil {
		return wire.FromStatus(err)
	}
	return nil
}

func (n *Node) status(ctx context.Context) (st *kryptonv1.GetStatusResponse, err error) {
	err = n.admin(func(a kryptonv1.AdminClient) error {
		st, err = a.GetStatus(ctx, &kryptonv1.GetStatusRequest{})
		return err
	})
	return st, err
}
