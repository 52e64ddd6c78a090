//go:build unix

package main

import (
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

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/errs/wire"
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
			name: "pose as the seed of a join token", who: "who answers at the address in a join token", tries: "takes the secret of the token from the node that joins",
			stops:   "the token has the hash of the seed's key; the new node shows the secret to nobody else",
			without: "a token that names the key of the attacker", run: poseAsSeed,
		},
	}
}

// fresh is a node without a cluster.
type fresh struct {
	dir string
	cmd *exec.Cmd
	at  cluster.Addresses
}

// startFresh starts a node with an empty data directory.
func (w *world) startFresh(ctx context.Context, name string) (*fresh, error) {
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
	f.cmd = exec.CommandContext(context.WithoutCancel(ctx), w.krypton, "server", "--config", conf) //nolint:gosec // The program under test.
	f.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
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
	err = eventually(ctx, "the fresh node answers", func(ctx context.Context) error {
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
	_ = f.cmd.Wait()
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
		said = append(said, port.name+": "+oneLine(fmt.Sprint(err))[:min(60, len(oneLine(fmt.Sprint(err))))])
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

// impostor answers at an address, and counts what nodes that join tell it.
type impostor struct {
	ln   net.Listener
	spki []byte
	got  chan int // bytes that came after the handshake; 0: the node broke off
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
	i := &impostor{got: make(chan int, 16)}
	if i.spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	raw, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.ln = tls.NewListener(raw, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{protoJoin}, ClientAuth: tls.RequireAnyClientCert})
	go func() {
		for {
			conn, err := i.ln.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
			n, _ := conn.Read(make([]byte, 4096)) // a node that refuses sends nothing
			i.got <- n
			_ = conn.Close()
		}
	}()
	return i, nil
}

// joinText is a join token as docs/formats.md has it.
func joinText(addr string, keyHash [32]byte) string {
	b := append(make([]byte, 0, 128), make([]byte, 32)...) // of a cluster that the node does not know yet
	b = append(b, random16()...)
	b = append(b, random16()...)
	b = append(b, 1, byte(len(addr)))
	b = append(b, addr...)
	b = append(b, keyHash[:]...)
	sum := sha256.Sum256(b)
	return "kjoin1-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(append(b, sum[:4]...)))
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
	defer func() { _ = i.ln.Close() }()
	// try has the node join, and returns how much the impostor was told.
	try := func(keyHash [32]byte) (told int, said error, err error) { //nolint:revive,staticcheck // Two answers and an error.
		call, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		said = n.admin(func(a kryptonv1.AdminClient) error {
			_, err := a.Join(call, &kryptonv1.JoinRequest{Token: joinText(i.ln.Addr().String(), keyHash)})
			return err
		})
		select {
		case told = <-i.got:
			return told, said, nil
		case <-time.After(patience):
			return 0, said, errors.New("the node never came")
		}
	}
	real := sha256.Sum256([]byte("the key of the seed"))
	told, said, err := try(real)
	if err != nil {
		return f, notTried(err)
	}
	f.broke, f.ended, f.evidence = told > 0, "the node broke off before it said anything", fmt.Sprint(said)
	for told == 0 { // the node may have tried the first token more than once
		if told, _, err = try(sha256.Sum256(i.spki)); err != nil {
			return f, notTried(err)
		}
	}
	f.control = fmt.Sprintf("the node sent it %d bytes", told)
	return f, nil
}
