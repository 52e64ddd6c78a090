package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/auth/identity"
	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/fsm"
	"github.com/openkcm/krypton-cluster/gate"
	"github.com/openkcm/krypton-cluster/internal/clock"
	"github.com/openkcm/krypton-cluster/internal/corr"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/node"
	"github.com/openkcm/krypton-cluster/server/gateway"
)

// Limits of what the doors take.
const (
	// MaxMessage is the largest request in bytes: the largest payload with room
	// for names and context.
	MaxMessage = 2 << 20

	// receiveLimit is what gRPC refuses by itself, with words of its own and a code
	// that asks the caller to come back. Between the two the answer is ours; it is
	// the limit that gRPC has by default.
	receiveLimit = 2 * MaxMessage

	handshakeTimeout = 10 * time.Second
	headerTimeout    = 10 * time.Second
	idleTimeout      = 5 * time.Minute
	// connectionAge ends a gRPC connection in good order, so that a new
	// certificate and a new node get their share of old clients, and a message
	// that never comes to its end does not stay for ever.
	connectionAge = time.Hour
	// drainTimeout is how long running calls have when the node stops.
	drainTimeout = 5 * time.Second
	// headerBytes bounds the headers of one request.
	headerBytes = 16 << 10
	// opsConnections bounds the operations port, which needs no certificate.
	opsConnections = 256
)

// Listeners are the bound ports of a node. REST and Ops may be nil.
type Listeners struct {
	GRPC, REST, Ops net.Listener
}

// Listen binds the public ports. An address that is off (empty) is not bound.
func Listen(ctx context.Context, grpcAddr, restAddr, opsAddr string) (l Listeners, err error) {
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	var lc net.ListenConfig
	for _, d := range []struct {
		name, addr string
		dst        *net.Listener
	}{{"grpc", grpcAddr, &l.GRPC}, {"rest", restAddr, &l.REST}, {"ops", opsAddr, &l.Ops}} {
		if d.addr == "" {
			continue
		}
		if *d.dst, err = lc.Listen(ctx, "tcp", d.addr); err != nil {
			return l, cluster.ListenError("listen."+d.name, d.addr, err)
		}
	}
	return l, nil
}

// Close closes what is bound.
func (l Listeners) Close() {
	for _, ln := range []net.Listener{l.GRPC, l.REST, l.Ops} {
		if ln != nil {
			_ = ln.Close()
		}
	}
}

// Config is what a server is made of. All fields are needed but CertFile,
// KeyFile and Metrics.
type Config struct {
	Node        *node.Node
	Machine     *fsm.Machine
	Cluster     *cluster.Cluster
	Gate        *gate.Gate
	Listeners   Listeners
	TLSDir      string // directory of the node's certificates
	CertFile    string // tls.mode files: the chain; empty: builtin
	KeyFile     string // tls.mode files: the key
	AdminSocket string // path of the administration socket
	DataDir     string
	NodeName    string
	Version     string
	Connections int                    // on each public port, at least 16
	Concurrent  uint32                 // calls at a time on one connection
	Budget      time.Duration          // of a call without a deadline
	Limits      Limits                 // of callers and tenants
	Metrics     []prometheus.Collector // of other parts of the node, for /metrics
	Clock       clock.Clock
	Rand        io.Reader
	Logger      *slog.Logger
}

// Server is the doors of one node. Make one with [New] and run it.
type Server struct {
	cfg   Config
	calls *calls
	doors *doors
}

// New makes the doors. Nothing answers before [Server.Run].
func New(ctx context.Context, cfg Config) (*Server, error) {
	var files *fileCertificate
	if cfg.CertFile != "" {
		files = &fileCertificate{certPath: cfg.CertFile, keyPath: cfg.KeyFile}
		if _, err := files.get(); err != nil {
			return nil, err
		}
	}
	dirs, err := newDirectories(ctx, cfg.TLSDir, cfg.Clock, cfg.Logger)
	if err != nil {
		return nil, err
	}
	certs := newCertificates(ctx, cfg.TLSDir, cfg.Cluster.Signer(), files, cfg.Clock, cfg.Logger)
	m := newMetrics()
	m.gauges(cfg.Node, cfg.Cluster, cfg.Gate)
	m.registry.MustRegister(cfg.Metrics...)
	cfg.Limits = cfg.Limits.orDefault()
	budgets := newLimits(cfg.Limits, cfg.Clock, newLimitMetrics(m.registry))
	budgets.gauges(m.registry)
	s := &Server{cfg: cfg, doors: newDoors(m.registry), calls: &calls{
		node: cfg.Node, serving: cfg.Node.ServingErr, machine: cfg.Machine, cluster: cfg.Cluster, gate: cfg.Gate, certs: certs, dirs: dirs, metrics: m,
		clock: cfg.Clock, rand: cfg.Rand, log: cfg.Logger, nodeID: string(cfg.Cluster.NodeID()), nodeName: cfg.NodeName,
		dataDir: cfg.DataDir, version: cfg.Version, budget: cfg.Budget, limits: budgets, concurrent: cfg.Concurrent,
	}}
	s.calls.local = &inproc{intercept: s.calls.answer}
	s.registerPublic(s.calls.local)
	m.approvals(s.calls)
	return s, nil
}

// Run answers until ctx ends, then lets running calls finish for a few seconds.
func (s *Server) Run(ctx context.Context) error {
	defer s.calls.dirs.close()
	defer s.calls.saving.close()
	rest, err := s.restHandler(ctx)
	if err != nil {
		return err
	}
	socket, err := s.listenSocket(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.calls.certs.run(ctx, s.cfg.Cluster, s.cfg.Machine, s.calls.dirs, s.calls.nodeID)
	})

	g.Go(func() error { return s.calls.executeRegularly(ctx) })

	creds := publicCreds{TransportCredentials: credentials.NewTLS(s.calls.certs.config("h2")), identify: s.calls.identify}
	public := s.grpcServer(grpc.Creds(creds), grpc.UnaryInterceptor(s.calls.fromNetwork), s.calls.tapOption())
	s.registerPublic(public)
	places := seatsOf(s.cfg.Connections, s.cfg.Limits.CallerConnections, s.cfg.Limits.TenantConnections)
	overHTTP := places
	places.bytes = strangerBytes
	s.serveGRPC(g, ctx, public, s.door("grpc", s.cfg.Listeners.GRPC, places))

	admin := s.grpcServer(grpc.UnaryInterceptor(s.calls.fromSocket))
	kryptonv1.RegisterAdminServer(admin, adminServer{calls: s.calls})
	s.serveGRPC(g, ctx, admin, socket)

	if ln := s.cfg.Listeners.REST; ln != nil {
		s.serveHTTP(g, ctx, rest, tls.NewListener(s.door("rest", ln, overHTTP), s.calls.certs.config("h2", "http/1.1")))
	}
	if ln := s.cfg.Listeners.Ops; ln != nil {
		// Nobody says here who he is, and a prober keeps its connection.
		s.serveHTTP(g, ctx, s.calls.opsHandler(), s.door("ops", ln, seats{all: opsConnections, strangers: opsConnections}))
	}
	return g.Wait()
}

func (s *Server) door(port string, ln net.Listener, places seats) *door {
	d := newDoor(ln, places, s.cfg.Clock, s.doors.of(port))
	s.doors.gauges(port, d)
	return d
}

// Join makes this node a member, as the administration socket does, for a node
// whose configuration has a join token. It returns once this node's own
// registry says that it is a member.
func (s *Server) Join(ctx context.Context, token cluster.JoinToken) error {
	id, err := corr.New(s.cfg.Rand)
	if err != nil {
		return errs.New(errs.Internal, "no randomness for a correlation id", errs.Cause(err))
	}
	// Whoever writes the configuration is who may open the socket.
	ctx = withCaller(corr.With(ctx, id), caller{Identity: identity.Identity{Principal: auth.LocalOperator()}})
	_, err = s.calls.join(ctx, token)
	return err
}

// streamWorkers is how many calls run on goroutines that are kept. A goroutine
// of its own begins with a small stack, and the way from the transport to the
// cipher is deep: its growth, copying the stack several times, was a sixth of
// the processor time of a call. When all are busy a call gets a new goroutine.
const streamWorkers = 64

// Transport returns the options of the gRPC ports that only change how much
// work a call is, so that a benchmark can give its baseline the same.
func Transport() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.NumStreamWorkers(streamWorkers)}
}

func (s *Server) grpcServer(opts ...grpc.ServerOption) *grpc.Server {
	own := newCodec()
	return grpc.NewServer(append(append(opts, Transport()...),
		grpc.MaxRecvMsgSize(receiveLimit), grpc.MaxSendMsgSize(2*MaxMessage), grpc.MaxConcurrentStreams(s.cfg.Concurrent),
		grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxHeaderListSize(headerBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: idleTimeout, MaxConnectionAge: connectionAge, MaxConnectionAgeGrace: maxDeadline,
			Time: time.Minute, Timeout: 20 * time.Second,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ForceServerCodecV2(own), experimental.BufferPool(own.buffers), // what it wipes, and what it is decoded from
		grpc.UnknownServiceHandler(s.calls.unknown),
	)...)
}

// registerPublic registers every service of the public doors. Admin is not one.
func (s *Server) registerPublic(r grpc.ServiceRegistrar) {
	kryptonv1.RegisterCryptoServer(r, cryptoServer{calls: s.calls})
	kryptonv1.RegisterTenantsServer(r, tenantsServer{calls: s.calls})
	kryptonv1.RegisterServicesServer(r, servicesServer{calls: s.calls})
	kryptonv1.RegisterSealServer(r, sealServer{calls: s.calls})
	kryptonv1.RegisterClusterServer(r, clusterServer{calls: s.calls})
	kryptonv1.RegisterAccessServer(r, accessServer{calls: s.calls})
	kryptonv1.RegisterApprovalsServer(r, approvalsServer{calls: s.calls})
	kryptonv1.RegisterCeremoniesServer(r, ceremoniesServer{calls: s.calls})
	kryptonv1.RegisterPoliciesServer(r, policiesServer{calls: s.calls})
}

func (s *Server) serveGRPC(g *errgroup.Group, ctx context.Context, srv *grpc.Server, ln net.Listener) { //nolint:revive // context-as-argument: the group belongs to the context.
	g.Go(func() error {
		if err := srv.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve gRPC: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		done := make(chan struct{})
		go func() {
			srv.GracefulStop()
			close(done)
		}()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		select {
		case <-done:
		case <-late.Done():
			srv.Stop()
			<-done
		}
		return nil
	})
}

func (s *Server) serveHTTP(g *errgroup.Group, ctx context.Context, h http.Handler, ln net.Listener) { //nolint:revive // context-as-argument: the group belongs to the context.
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: s.cfg.Budget + headerTimeout, WriteTimeout: s.cfg.Budget + headerTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes, ConnContext: withVisit,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: int(s.cfg.Concurrent), SendPingTimeout: time.Minute, PingTimeout: 20 * time.Second, WriteByteTimeout: time.Minute,
		},
		// What net/http has to say about a connection is about strangers, and at
		// their rate.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := srv.Shutdown(late); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// restHandler is the HTTP/JSON door: the caller is who the request's token or the TLS
// connection's certificate says, and the call goes through the same interceptor as over gRPC.
func (s *Server) restHandler(ctx context.Context) (http.Handler, error) {
	h, err := gateway.New(ctx, s.calls.local)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if gateway.SpeaksGRPC(r) {
			gateway.RefuseGRPC(w)
			return
		}
		s.answerHTTP(h, w, gateway.Listed(r))
	}), nil
}

// answerHTTP answers a request that has only what may be read of its headers.
func (s *Server) answerHTTP(h http.Handler, w http.ResponseWriter, r *http.Request) {
	who := s.calls.identifyRequest(r)
	if who.refused != nil || who.noSeat != nil {
		// A stranger's request is known by its path, for the record; what it
		// carries is not read, and the connection is of no further use.
		r.Body, r.ContentLength, r.URL.RawQuery = http.NoBody, 0, ""
		w.Header().Set("Connection", "close")
	}
	// The id is made here and not in the interceptor, so that a refusal of the
	// gateway has one too (I3).
	id, err := s.calls.correlate(traceIn(r))
	if err != nil {
		gateway.WriteError(w, err)
		return
	}
	w.Header().Set(gateway.CorrelationHeader, string(id))
	w.Header().Set(gateway.NodeHeader, s.calls.nodeID)
	if r.Method == http.MethodGet && r.URL.Path == gateway.DescriptionPath {
		// Not for strangers, although it is no secret: none of them gets an answer
		// so much larger than what was sent.
		if who.refused != nil {
			gateway.WriteError(w, who.refused)
			return
		}
		in, err := s.calls.admit(withCaller(corr.With(r.Context(), id), who), "", 0, s.calls.clock.Now())
		defer in.leave()
		if err != nil {
			gateway.WriteError(w, err)
			return
		}
		gateway.WriteDescription(w)
		return
	}
	ctx := withCaller(corr.With(r.Context(), id), who)
	callOf(ctx).async = gateway.RespondAsync(r.Header)
	h.ServeHTTP(w, r.WithContext(ctx))
}

// listenSocket binds the administration socket (I5). The directory is 0700; the
// mode of the socket is set before anybody can know its name.
func (s *Server) listenSocket(ctx context.Context) (net.Listener, error) {
	path := s.cfg.AdminSocket
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.New(errs.InvalidConfig, "the socket of an earlier run cannot be removed: "+err.Error(), errs.Cause(err))
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, errs.New(errs.InvalidConfig, "cannot listen on the administration socket "+path,
			errs.Hint("a path of a socket has at most about 100 bytes; use a shorter node.data_dir"), errs.Cause(err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(errs.New(errs.InvalidConfig, "cannot protect the administration socket", errs.Cause(err)), ln.Close())
	}
	return &onceListener{Listener: ln}, nil
}

// onceListener closes its listener once: gRPC closes it a second time.
type onceListener struct {
	net.Listener

	once sync.Once
	err  error
}

// Close implements net.Listener.
func (l *onceListener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}
