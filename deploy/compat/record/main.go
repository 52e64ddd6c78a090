//go:build unix

// Command record keeps what a release writes to disk, for later releases to open.
//
// It runs one node of a given binary, makes keys and data with everything the
// format has, stops the node, and packs its data directory, its keystore and a
// list of what has to open into an archive beside this command. scripts/compat
// runs it.
//
// # Invariants
//
//   - I1: the archive holds only what was made for it: a development cluster with throw-away keys.
//   - I2: an archive that exists is never replaced: what a release wrote does not change.
//
// # Concurrency
//
// One process.
//
// # Failure
//
// It writes no archive.
//
// # Source
//
// docs/formats.md.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/auth"
	"github.com/openkcm/krypton-cluster/client"
	"github.com/openkcm/krypton-cluster/client/stream"
	"github.com/openkcm/krypton-cluster/deploy/compat"
	"github.com/openkcm/krypton-cluster/internal/devcluster"
)

func main() {
	binary := flag.String("binary", "", "krypton program of the release")
	out := flag.String("out", "", "archive to write")
	flag.Parse()
	if err := run(*binary, *out); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1) //nolint:forbidigo // This is main.
	}
}

func run(binary, out string) (err error) {
	if binary == "" || out == "" {
		return errors.New("give -binary and -out")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "compat-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := devcluster.Start(ctx, devcluster.Options{Binary: binary, Nodes: 1, Dir: filepath.Join(dir, "c"), Tenant: "demo", Service: "payments", Output: os.Stderr})
	if err != nil {
		return err
	}
	want, err := fill(ctx, c)
	err = errors.Join(err, c.Close())
	if err != nil {
		return err
	}
	return pack(c.Dir(), want, out)
}

// fill makes keys and data: versions in several states, a pinned resource,
// ciphertexts under old and new versions.
func fill(ctx context.Context, c *devcluster.Cluster) (_ *compat.Expected, err error) {
	gov, err := c.Client(ctx, auth.RoleGovernor)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gov.Close()) }()
	app, err := c.Client(ctx, auth.RoleWorkload)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, app.Close()) }()

	const service = "tenants/demo/services/payments"
	out := &compat.Expected{Tenant: "demo", Service: "payments"}
	scopes := []client.Scope{
		{Service: service},
		{Service: service, Resource: "orders", Context: map[string]string{"purpose": "invoice", "région": "Δ"}},
	}
	record := func() error {
		for i, s := range scopes {
			text := fmt.Sprintf("made %d under scope %d", len(out.Items), i)
			sealed, err := app.Encrypt(ctx, s, []byte(text))
			if err != nil {
				return err
			}
			out.Items = append(out.Items, compat.Item{Kind: compat.Ciphertext, Resource: s.Resource, Context: s.Context, Bytes: sealed, Content: []byte(text)})
			key, err := app.GenerateDataKey(ctx, s, 48)
			if err != nil {
				return err
			}
			out.Items = append(out.Items, compat.Item{Kind: compat.DataKey, Resource: s.Resource, Context: s.Context, Bytes: key.Wrapped, Content: bytes.Clone(key.Plaintext.Bytes())})
			for _, size := range []int{stream.Segment64KiB, stream.Segment1MiB} {
				var file bytes.Buffer
				plain := []byte(text)
				if len(out.Items) < 4 && size == stream.Segment64KiB {
					plain = []byte(strings.Repeat(text, 3000)) // two segments, once: ciphertext does not compress
				}
				w, err := stream.NewEncryptor(ctx, app, stream.Options{Scope: s, SegmentSize: size, AAD: []byte("file")[:4*(i%2)]}, &file)
				if err != nil {
					return err
				}
				if _, err := w.Write(plain); err != nil {
					return err
				}
				if err := w.Close(); err != nil {
					return err
				}
				out.Items = append(out.Items, compat.Item{Kind: compat.Stream, Resource: s.Resource, Context: s.Context, AAD: []byte("file")[:4*(i%2)], Bytes: file.Bytes(), Content: plain})
			}
		}
		return nil
	}
	if err := record(); err != nil {
		return nil, err
	}
	if _, err := gov.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service}); err != nil {
		return nil, err
	}
	if err := record(); err != nil {
		return nil, err
	}
	if _, err := gov.Tenants().RotateTenant(ctx, &kryptonv1.RotateTenantRequest{Name: "tenants/demo"}); err != nil {
		return nil, err
	}
	if _, err := gov.Services().RotateService(ctx, &kryptonv1.RotateServiceRequest{Name: service}); err != nil {
		return nil, err
	}
	if _, err := gov.Services().DeprecateVersion(ctx, &kryptonv1.DeprecateVersionRequest{Name: service + "/versions/1"}); err != nil {
		return nil, err
	}
	return out, record()
}

// pack writes the archive. What the node makes again by itself, and the space it
// keeps back on the disk, is left out.
func pack(dir string, want *compat.Expected, out string) (err error) {
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // I2
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	add := func(name string, content []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := t.Write(content)
		return err
	}
	list, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		return err
	}
	if err := add(compat.ListName, list); err != nil {
		return err
	}
	root := os.DirFS(dir)
	for _, sub := range []string{"n1", "keystore"} {
		err := fs.WalkDir(root, sub, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(path, "n1/run/") || strings.Contains(path, "reserve") {
				return err
			}
			content, err := fs.ReadFile(root, path)
			if err != nil {
				return err
			}
			return add(path, content)
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}
