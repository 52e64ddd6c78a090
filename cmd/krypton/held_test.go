package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	kryptonv1 "github.com/openkcm/krypton-cluster/api/krypton/v1"
	"github.com/openkcm/krypton-cluster/client/clienttest"
	"github.com/openkcm/krypton-cluster/internal/errs"
	"github.com/openkcm/krypton-cluster/seal"
	"github.com/openkcm/krypton-cluster/seal/agebox"
	"github.com/openkcm/krypton-cluster/seal/agebox/ageboxtest"
	"github.com/openkcm/krypton-cluster/seal/manifest"
	"github.com/openkcm/krypton-cluster/seal/sealpb"
)

// passphrase is that of cleo and of dora.
const passphrase = "correct horse battery"

// holders makes the keys of persons, each in NAME.identity of dir, and returns who
// holds a share: anna has a hybrid key, ben a token behind a plugin, cleo a hybrid
// key under a passphrase, dora an SSH key under one, and emil has a paper.
func holders(dir string) ([]seal.Holder, error) {
	write := func(name, text string) error {
		return os.WriteFile(filepath.Join(dir, name+".identity"), []byte(text), 0o600)
	}
	hybrid := func(name, pass string) (string, error) {
		ids, err := agebox.NewIdentities(time.Now())
		if err != nil {
			return "", err
		}
		defer ids.Destroy()
		public, err := ids.Public()
		if err != nil {
			return "", err
		}
		var text bytes.Buffer
		if err := ids.Save(&text); err != nil {
			return "", err
		}
		file := text.String()
		if pass != "" {
			if file, err = ageboxtest.Protect(file, pass); err != nil {
				return "", err
			}
		}
		return public[0].Recipient, write(name, file)
	}
	anna, err := hybrid("anna", "")
	if err != nil {
		return nil, err
	}
	cleo, err := hybrid("cleo", passphrase)
	if err != nil {
		return nil, err
	}
	if _, err := hybrid("nobody", ""); err != nil {
		return nil, err
	}
	ben, token, err := ageboxtest.New(ageboxtest.Asks)
	if err != nil {
		return nil, err
	}
	if err := write("ben", token); err != nil {
		return nil, err
	}
	if err := write("missing", ageboxtest.Missing()); err != nil {
		return nil, err
	}
	dora, file, err := ageboxtest.SSH(passphrase)
	if err != nil {
		return nil, err
	}
	if err := write("dora", file); err != nil {
		return nil, err
	}
	dora += " dora@example"
	return []seal.Holder{{Name: "anna", Recipient: anna}, {Name: "ben", Recipient: ben}, {Name: "cleo", Recipient: cleo}, {Name: "dora", Recipient: dora}, {Name: "emil"}}, nil
}

// sealFor makes a MasterKey that two of the holders open.
func sealFor(all []seal.Holder, keyspace byte) (seal.Record, []seal.Share, error) {
	c := seal.Ceremony{Generation: 1, Time: time.Now()}
	c.Keyspace[0], c.Cluster[0], c.ID[0] = keyspace, 2, keyspace
	rec, master, shares, err := seal.Create(context.Background(), rand.Reader, c, seal.Plan{Groups: []seal.Group{{Threshold: 2, Holders: all}}}, nil)
	if err == nil {
		master.Destroy()
	}
	return rec, shares, err
}

// shardKeeper is what a node answers when it is asked for an encrypted share.
type shardKeeper struct {
	own, given *sealpb.Record // by which it unseals; from which it gives shares
	manifest   *sealpb.Manifest
}

// heldCeremony makes the seal of [holders], and what its nodes say of it.
func heldCeremony(dir string, how trust) (seal.Record, seal.Fingerprint, shardKeeper, error) {
	fail := func(err error) (seal.Record, seal.Fingerprint, shardKeeper, error) {
		return seal.Record{}, seal.Fingerprint{}, shardKeeper{}, err
	}
	var fp seal.Fingerprint
	if _, err := hex.Decode(fp[:], []byte(clienttest.Fingerprint)); err != nil {
		return fail(err)
	}
	all, err := holders(dir)
	if err != nil {
		return fail(err)
	}
	rec, printed, err := sealFor(all, 1)
	if err != nil {
		return fail(err)
	}
	var paper bytes.Buffer
	if err := printed[0].ForCluster(fp).Print(&paper); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "emil-share"), paper.Bytes(), 0o600); err != nil {
		return fail(err)
	}
	k := shardKeeper{own: rec.Proto(), given: rec.Proto()}
	k.manifest = k.given.GetManifest()
	d := manifest.Of(k.manifest)
	if err := os.WriteFile(filepath.Join(dir, "digest"), []byte(hex.EncodeToString(d[:])), 0o600); err != nil {
		return fail(err)
	}
	switch how {
	case swappedShard, foreignSeal:
		other, _, err := sealFor(all, 9)
		if err != nil {
			return fail(err)
		}
		k.given = other.Proto()
		if how == foreignSeal {
			k.manifest = k.given.GetManifest()
		}
	case forgedManifest:
		// The node cannot open the share, and makes one: what is inside is right but
		// for the share itself.
		other, _, err := sealFor(all, 1)
		if err != nil {
			return fail(err)
		}
		k.given = other.Proto()
		k.manifest = proto.CloneOf(k.manifest)
		for i, h := range k.manifest.GetHolders() {
			if i < len(k.given.GetShards()) {
				sum := sha256.Sum256(k.given.GetShards()[i].GetEncryptedShard())
				h.EncryptedShardHash = sum[:]
			}
		}
	case honest, falseSignature, foreignCA, otherNode:
	}
	return rec, fp, k, nil
}

// GetShard answers as the node of the keeper's kind does.
func (n *sealedNode) GetShard(_ context.Context, r *kryptonv1.GetShardRequest) (*kryptonv1.EncryptedShard, error) {
	for _, h := range n.shards.own.GetManifest().GetHolders() {
		recipient, _, _ := strings.Cut(h.GetRecipient(), " dora")
		if h.GetIndex() != r.GetIndex() && (r.GetHolder() == "" || h.GetName() != r.GetHolder()) && (r.GetRecipient() == "" || recipient != r.GetRecipient()) {
			continue
		}
		for _, s := range n.shards.given.GetShards() {
			if s.GetIndex() == h.GetIndex() {
				m, err := proto.Marshal(n.shards.manifest)
				return &kryptonv1.EncryptedShard{Index: s.GetIndex(), Shard: s.GetEncryptedShard(), Manifest: m}, err
			}
		}
		return nil, errs.New(errs.FailedState, fmt.Sprintf("share %d was printed, and no node has it", h.GetIndex()), errs.Hint("give what was printed to krypton unseal"))
	}
	return nil, errs.New(errs.NotFound, "nobody like that holds a share", errs.Hint("krypton status shows who does; a new holder comes with a ceremony"))
}
