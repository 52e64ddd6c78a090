//go:build unix

package devcluster

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gopkg.in/yaml.v3"

	"github.com/openkcm/krypton-cluster/cluster"
	"github.com/openkcm/krypton-cluster/internal/ports"
	"github.com/openkcm/krypton-cluster/keystore/local"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// Sizes of a node that serves one developer; the defaults are those of a server.
const (
	lockMiB    = 4
	segmentMiB = 8
	reserveMiB = 8
)

// KeystoreName is how the nodes' configuration calls the local keystore.
const KeystoreName = "dev"

// sealKey is the key of the local keystore that seals the MasterKey.
const sealKey = "masterkey"

// choosePorts returns the addresses of a node that never ran, on loopback (I4).
func choosePorts() (a cluster.Addresses, err error) {
	for _, addr := range []*string{&a.GRPC, &a.REST, &a.Peer, &a.Ops} {
		if *addr, err = ports.Loopback(); err != nil {
			return cluster.Addresses{}, err
		}
	}
	return a, nil
}

// nodeConfig is the part of a node's configuration that differs from the
// defaults. It is written by hand and not as a config.Config, so that the file
// shows a reader what a node needs and not everything that it could have.
func nodeConfig(name, dataDir, keystoreDir string, segment int, a cluster.Addresses, more []map[string]any) ([]byte, error) {
	type section = map[string]any
	keystores := append([]section{{"name": KeystoreName, "type": local.Type, "dir": keystoreDir}}, more...)
	raw, err := yaml.Marshal(section{
		"node":      section{"name": name, "data_dir": dataDir},
		"listen":    section{"grpc": a.GRPC, "rest": a.REST, "peer": a.Peer, "ops": a.Ops},
		"memory":    section{"lock_mib": lockMiB},
		"audit":     section{"segment_mib": segment, "reserve_mib": reserveMiB},
		"keystores": keystores,
	})
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return append([]byte("# Written by devcluster; for development only.\n"), raw...), nil
}

// replaceFile writes a file so that its reader sees the old or the new one.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, fileMode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// maxSocketPath is what fits into a sockaddr_un on Linux (108) and macOS (104),
// with the byte that ends it.
const maxSocketPath = 103

func socketPath(dataDir string) string { return filepath.Join(dataDir, "run", "admin.sock") }
