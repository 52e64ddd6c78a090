//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/cluster/clusterpb"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
	"github.com/openkcm/krypton-cluster/internal/mutation"
)

// founders are attacks on nodes that belong to no cluster yet.
func founders() []attack {
	return []attack{
		{
			name: "found the cluster over the network", who: "who reaches a fresh node first", tries: "calls init on the gRPC, REST, peer and operations ports",
			stops:   "init is on the administration socket in the data directory only (0700, 0600)",
			without: "the same request over the socket", run: initOverNetwork,
		},
		{
			name: "pose as the seed of a join token", who: "who answers at the address in a join token", tries: "takes what the node that joins shows of its token",
			stops:   "the token has the hash of the seed's key; the new node shows it to nobody else",
			without: "a token that names the key of the attacker", run: poseAsSeed,
		},
		{
			name: "turn a defence off by the environment", who: "who can set variables of a node", tries: "sets the variable by which builds for these tests leave a defence out",
			stops:   "the released build has neither the variable nor the branches, and does not start with a variable that it does not know",
			without: "the build for these tests", run: setVariable,
		},
	}
}

// fresh is a node without a cluster.
type fresh struct {
	dir string
	cmd *exec.Cmd
	at  cluster.Addresses

	done chan struct{} // closed when the process has ended
}

// startFresh starts a node with an empty data directory.
func (w *world) startFresh(ctx context.Context, name string) (*fresh, error) {
	return w.startFreshAs(ctx, name, devcluster.Program{Binary: w.krypton})
}

func (w *world) startFreshAs(ctx context.Context, name string, p devcluster.Program) (*fresh, error) {
	dir, err := w.path(name)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	f := &fresh{dir: filepath.Join(dir, "d")}
	conf := filepath.Join(dir, "krypton.yaml")
	text := fmt.Sprintf("node: {name: fresh, data_dir: %q}\n", f.dir) +
		"listen: {grpc: \"127.0.0.1:0\", rest: \"127.0.0.1:0\", peer: \"127.0.0.1:0\", ops: \"127.0.0.1:0\"}\nmemory: {lock_mib: 2}\naudit: {segment_mib: 1, reserve_mib: 1}\n"
	if err := writeFile(conf, []byte(text)); err != nil {
		return nil, err
	}
	f.cmd = exec.CommandContext(context.WithoutCancel(ctx), p.Binary, "server", "--config", conf) //nolint:gosec // The program under test.
	f.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, p.Env...)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	f.cmd.Stdout, f.cmd.Stderr = log, log
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	f.done = make(chan struct{})
	go func() {
		_ = f.cmd.Wait() // the log says how
		close(f.done)
	}()
	err = eventually(ctx, "the fresh node answers", func(ctx context.Context) error {
		select {
		case <-f.done:
			return nil
		default:
		}
		if f.at, err = cluster.ReadAddresses(f.dir); err != nil {
			return err
		}
		return f.admin(func(a kryptonv1.AdminClient) error {
			_, err := a.GetStatus(ctx, &kryptonv1.GetStatusRequest{})
			return err
		})
	})
	if err != nil {
		f.end()
	}
	return f, err
}

func (f *fresh) end() {
	_ = f.cmd.Process.Kill() // it may have ended
	<-f.done
}

// ended returns what a process said that has ended.
func (f *fresh) ended() (string, bool) {
	select {
	case <-f.done:
		log, err := os.ReadFile(filepath.Join(filepath.Dir(f.dir), "log"))
		return lineWith(string(log), "krypton: ") + errText(err), true
	default:
		return "", false
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// admin calls the node over its socket.
func (f *fresh) admin(call func(kryptonv1.AdminClient) error) error {
	cc, err := grpc.NewClient("unix:"+filepath.Join(f.dir, "run", "admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	return wire.FromStatus(call(kryptonv1.NewAdminClient(cc)))
}

// initRequest is what an attacker would found.
func initRequest() (*kryptonv1.InitRequest, error) {
	req := &kryptonv1.InitRequest{ClusterName: "mallorys", Voters: 1, SealMode: kryptonv1.SealMode_SEAL_MODE_SHAMIR, Shares: 3, Threshold: 2}
	for _, p := range []struct {
		name string
		to   *[]*kryptonv1.PersonKey
	}{{"mallory", &req.Governors}, {"trudy", &req.Custodians}} {
		_, spki, err := newCaller()
		if err != nil {
			return nil, err
		}
		*p.to = append(*p.to, &kryptonv1.PersonKey{Name: p.name, PublicKey: spki})
	}
	return req, nil
}

func initOverNetwork(ctx context.Context, w *world) (f finding, err error) {
	n, err := w.startFresh(ctx, "init")
	if err != nil {
		return f, notTried(err)
	}
	defer n.end()
	req, err := initRequest()
	if err != nil {
		return f, err
	}
	key, err := newKey()
	if err != nil {
		return f, err
	}
	pair, err := selfSigned(key)
	if err != nil {
		return f, err
	}
	var said []string
	for _, port := range []struct{ name, addr, proto string }{
		{"gRPC", n.at.GRPC, "h2"}, {"REST", n.at.REST, "h2"}, {"peer", n.at.Peer, protoPeer}, {"peer, to join", n.at.Peer, protoJoin}, {"operations", n.at.Ops, ""},
	} {
		creds := insecure.NewCredentials()
		dial := func(ctx context.Context, addr string) (net.Conn, error) {
			if port.proto == "" {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			}
			return dialPeer(ctx, addr, port.proto, pair)
		}
		if port.proto == "h2" {
			creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}) //nolint:gosec // An attacker.
			dial = func(ctx context.Context, addr string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			}
		}
		cc, err := grpc.NewClient("passthrough:///"+port.addr, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithContextDialer(dial))
		if err != nil {
			return f, notTried(err)
		}
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err = kryptonv1.NewAdminClient(cc).Init(call, req)
		cancel()
		_ = cc.Close()
		f.broke = f.broke || err == nil
		said = append(said, port.name+": "+status.Code(err).String())
	}
	f.ended, f.evidence = "no port has the method", strings.Join(said, "; ")
	err = n.admin(func(a kryptonv1.AdminClient) error {
		_, err := a.Init(ctx, req)
		return err
	})
	if err == nil {
		f.control = "the cluster was founded"
	}
	return f, nil
}

// impostor is a seed that is none: it answers at the address in a token, and keeps
// what nodes show it of their tokens.
type impostor struct {
	clusterpb.UnimplementedJoinServer
	net.Listener

	server *grpc.Server
	spki   []byte
	met    chan error  // handshakes, and how they ended
	got    chan []byte // keys of tokens, and signatures
}

func newImpostor(ctx context.Context) (*impostor, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	pair, err := selfSigned(key)
	if err != nil {
		return nil, err
	}
	i := &impostor{met: make(chan error, 64), got: make(chan []byte, 64), server: grpc.NewServer()}
	if i.spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	raw, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.Listener = tls.NewListener(raw, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{protoJoin}, ClientAuth: tls.RequireAnyClientCert})
	clusterpb.RegisterJoinServer(i.server, i)
	go func() { _ = i.server.Serve(i) }() // until Stop
	return i, nil
}

// Accept implements [net.Listener].
func (i *impostor) Accept() (net.Conn, error) {
	conn, err := i.Listener.Accept()
	if err != nil {
		return nil, err
	}
	shake, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	i.met <- conn.(*tls.Conn).HandshakeContext(shake) //nolint:forcetypeassert,errcheck // Of a tls.Listener.
	return conn, nil
}

// Join implements [clusterpb.JoinServer].
func (i *impostor) Join(_ context.Context, req *clusterpb.JoinRequest) (*clusterpb.JoinResponse, error) {
	i.got <- append(req.GetTokenKey(), req.GetSignature()...)
	return nil, errors.New("thank you")
}

// joinText is a join token as docs/formats.md has it.
func joinText(addr string, keyHash [32]byte) string {
	b := append(make([]byte, 0, 128), make([]byte, 32)...) // of a cluster that the node does not know yet
	b = append(b, random16()...)
	b = append(b, random16()...)
	b = append(b, 1, byte(len(addr))) //nolint:gosec // An address has at most 255 bytes.
	b = append(b, addr...)
	b = append(b, keyHash[:]...)
	sum := sha256.Sum256(b)
	return "kjoin2-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(append(b, sum[:4]...)))
}

func poseAsSeed(ctx context.Context, w *world) (f finding, err error) {
	n, err := w.startFresh(ctx, "join")
	if err != nil {
		return f, notTried(err)
	}
	defer n.end()
	i, err := newImpostor(ctx)
	if err != nil {
		return f, notTried(err)
	}
	defer i.server.Stop()
	// try has the node join with a token that names a key.
	try := func(keyHash [32]byte) error {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return n.admin(func(a kryptonv1.AdminClient) error {
			_, err := a.Join(call, &kryptonv1.JoinRequest{Token: joinText(i.Addr().String(), keyHash)})
			return err
		})
	}
	said := try(sha256.Sum256([]byte("the key of the seed")))
	select {
	case err := <-i.met:
		f.evidence = "the impostor: " + fmt.Sprint(err)
	default:
		return f, notTried(errors.New("the node never came"))
	}
	f.broke, f.ended = len(i.got) > 0, "the node breaks the handshake off"
	f.evidence += "; the node: " + fmt.Sprint(said)
	_ = try(sha256.Sum256(i.spki)) // the impostor does not let it join
	if len(i.got) > 0 {
		f.control = fmt.Sprintf("the node showed the key of the token and a signature, %d bytes", len(<-i.got))
	}
	return f, nil
}

// setVariable starts the released program with the variable of the other build, and
// looks into both.
func setVariable(ctx context.Context, w *world) (f finding, err error) {
	env := []string{"KRYPTON_MUTATION=/nowhere"}
	n, err := w.startFreshAs(ctx, "released", devcluster.Program{Binary: w.krypton, Env: env})
	if err != nil {
		return f, notTried(err)
	}
	defer n.end()
	said, ended := n.ended()
	f.broke, f.ended, f.evidence = !ended, "the program does not start, and has none of the names", said
	needles := []string{"KRYPTON_MUTATION"}
	for _, name := range mutation.Names() {
		needles = append(needles, string(name))
	}
	released, err := os.ReadFile(w.krypton)
	if err != nil {
		return f, notTried(err)
	}
	lying, err := os.ReadFile(w.mutation)
	if err != nil {
		return f, notTried(err)
	}
	all := true
	for _, s := range needles {
		if bytes.Contains(released, []byte(s)) {
			f.broke, f.ended = true, "the released program has "+s
		}
		all = all && bytes.Contains(lying, []byte(s))
	}
	m, err := w.startFreshAs(ctx, "lying", devcluster.Program{Binary: w.mutation, Env: env})
	if err != nil {
		return f, notTried(err)
	}
	defer m.end()
	if _, ended := m.ended(); all && !ended {
		f.control = "it starts, and has all of the names"
	}
	return f, nil
}
