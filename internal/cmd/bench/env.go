//go:build unix

package main

import (
	"bufio"
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
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

const (
	tenantID  = "acme"
	serviceID = "pay"
	service   = "tenants/" + tenantID + "/services/" + serviceID

	// segmentMiB is the size of an audit segment of a server.
	segmentMiB = 64
)

// env is what pairs share: the program, one node, one echo. Each is started when
// the first pair needs it.
type env struct {
	out       io.Writer
	root      string
	binary    string
	built     bool
	ruledPair *pairFiles // of the workload of the tenant with policies; nil: there is none yet
	dir       string     // of files that pairs write
	turns     int        // of each side in the whole run

	hasEvil  bool // there is a workload of another tenant
	registry *registry
	cluster  *devcluster.Cluster
	echo     *echoProcess
	voters   map[uint32]*voters // in this process, by format version
	trio     *devcluster.Cluster
	closed   bool
}

func newEnv(out io.Writer, binary string) (*env, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	e := &env{out: out, root: root, binary: binary, built: binary != "", voters: map[uint32]*voters{}}
	if !e.built {
		e.binary = filepath.Join(root, "bin", "krypton")
	}
	e.dir, err = os.MkdirTemp("", "krypton-bench-")
	return e, err
}

// close ends what was started and removes what was written. It is idempotent.
func (e *env) close() error {
	if e.closed {
		return nil
	}
	e.closed = true
	var all []error
	if e.echo != nil {
		all = append(all, e.echo.close())
	}
	for _, c := range []*devcluster.Cluster{e.cluster, e.trio} {
		if c != nil {
			all = append(all, c.Close())
		}
	}
	for _, v := range e.voters {
		all = append(all, v.close())
	}
	return errors.Join(append(all, os.RemoveAll(e.dir))...)
}

// node returns the node under test, a process of its own that has done all that
// a node does before it serves.
func (e *env) node(ctx context.Context) (*devcluster.Node, error) {
	if e.cluster != nil {
		return e.cluster.Nodes()[0], nil
	}
	if err := e.build(ctx); err != nil {
		return nil, err
	}
	var err error
	e.cluster, err = devcluster.Start(ctx, devcluster.Options{
		Binary: e.binary, Nodes: 1, Tenant: tenantID, Service: serviceID, SegmentMiB: segmentMiB, Output: e.out,
	})
	if err != nil {
		return nil, err
	}
	return e.cluster.Nodes()[0], nil
}

// processes returns a cluster of three nodes, each a process of its own.
func (e *env) processes(ctx context.Context) (*devcluster.Cluster, error) {
	if e.trio != nil {
		return e.trio, nil
	}
	if err := e.build(ctx); err != nil {
		return nil, err
	}
	var err error
	e.trio, err = devcluster.Start(ctx, devcluster.Options{
		Binary: e.binary, Nodes: 3, Tenant: tenantID, Service: serviceID, SegmentMiB: segmentMiB, Output: e.out,
	})
	return e.trio, err
}

// build makes the program, once.
func (e *env) build(ctx context.Context) error {
	if !e.built {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", e.binary, "./cmd/krypton") //nolint:gosec // Our own program.
		cmd.Dir = e.root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w\n%s", err, out)
		}
		e.built = true
	}
	return nil
}

// echoes returns the echo, with the node's certificate.
func (e *env) echoes(ctx context.Context) (*echoProcess, error) {
	if e.echo != nil {
		return e.echo, nil
	}
	nd, err := e.node(ctx)
	if err != nil {
		return nil, err
	}
	e.echo, err = startEcho(ctx, filepath.Join(nd.DataDir(), "tls", "api.pem"), filepath.Join(nd.DataDir(), "tls", "node.key"))
	return e.echo, err
}

// callerTLS is how the workload calls the node and the echo.
func (e *env) callerTLS() (*tls.Config, error) { return tlsOf(e.cluster, auth.RoleWorkload) }

// tlsOf is how somebody in that role calls the nodes of a cluster.
func tlsOf(c *devcluster.Cluster, role auth.Role) (*tls.Config, error) {
	who, ok := c.Person(role)
	if !ok {
		return nil, fmt.Errorf("there is no %s", role)
	}
	cert, err := tls.LoadX509KeyPair(who.CertFile, who.KeyFile)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(c.CAFile())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the CA file")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{cert}}, nil
}

// dial connects a plain gRPC client to a server with the node's certificate.
func (e *env) dial(addr string) (*grpc.ClientConn, error) {
	return dialAs(e.cluster, auth.RoleWorkload, addr)
}

// dialAs connects a plain gRPC client in a role: it has one attempt, and no
// deadline but the caller's.
func dialAs(c *devcluster.Cluster, role auth.Role, addr string) (*grpc.ClientConn, error) {
	cfg, err := tlsOf(c, role)
	if err != nil {
		return nil, err
	}
	return dialTLS(cfg, addr)
}

func dialTLS(cfg *tls.Config, addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
}

// echoProcess is this program, run as the echo.
type echoProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
	addrs echoAddrs
}

// echoAddrs is what the echo prints first.
type echoAddrs struct{ GRPC, REST, Ops string }

func startEcho(ctx context.Context, certFile, keyFile string) (*echoProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// Without the context: it ends with its standard input, in order.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "echo", certFile, keyFile) //nolint:gosec // This program.
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
	p := &echoProcess{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.addrs)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the echo does not start: %w", err), p.close())
	}
	return p, nil
}

func (p *echoProcess) close() error {
	return errors.Join(p.stdin.Close(), p.cmd.Wait())
}

// scrape is the meter of a process with Go's and the process's own metrics.
func scrape(addr string) meter {
	return func(ctx context.Context) (cost, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
		if err != nil {
			return cost{}, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return cost{}, err
		}
		defer resp.Body.Close() //nolint:errcheck // Read to its end, or of no use.
		var c cost
		found := 0
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), " ")
			into, ok := map[string]*float64{
				"go_memstats_mallocs_total": &c.allocs, "go_memstats_alloc_bytes_total": &c.bytes, "process_cpu_seconds_total": &c.cpu,
			}[name]
			if !ok {
				continue
			}
			if *into, err = strconv.ParseFloat(value, 64); err != nil {
				return cost{}, err
			}
			found++
		}
		if found != 3 {
			return cost{}, fmt.Errorf("the metrics of %s have %d of the 3 that are needed", addr, found)
		}
		return c, lines.Err()
	}
}
