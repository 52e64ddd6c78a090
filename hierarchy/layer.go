package hierarchy

// Layer is a level of the key hierarchy. The numbers are durable (I11); zero is invalid.
type Layer int

// The layers.
const (
	LayerMasterKey Layer = 1 // root of a keyspace; in memory only
	LayerIVK       Layer = 2 // internal versioned key, cluster-wide
	LayerL1        Layer = 3 // customer key, in the customer's keystore
	LayerL2        Layer = 4 // tenant key, nested in L1 and IVK
	LayerL21       Layer = 5 // tenant key version
	LayerL3        Layer = 6 // service key version
	LayerL4        Layer = 7 // data key
)

// String returns the layer as the documents write it.
func (l Layer) String() string {
	switch l {
	case LayerMasterKey:
		return "MasterKey"
	case LayerIVK:
		return "IVK"
	case LayerL1:
		return "L1"
	case LayerL2:
		return "L2"
	case LayerL21:
		return "L2.1"
	case LayerL3:
		return "L3"
	case LayerL4:
		return "L4"
	}
	return "invalid layer"
}

// Purpose says what an envelope is for. It is part of the key derivation and of
// the associated data, so bytes made for one purpose never open for another.
// Zero is invalid.
type Purpose int

// The purposes. Numbers exist in memory only; what is durable is the wire
// string (see [Purpose.Wire]). Changing a wire string makes every ciphertext of
// that purpose unreadable.
const (
	PurposeUnspecified    Purpose = iota
	PurposeIVK                    // an IVK under the MasterKey
	PurposeL2Outer                // the L2 blob under an IVK
	PurposeL1                     // K1 under the customer key: our associated data for the provider; no envelope of ours
	PurposeL2Inner                // an L2 under its K1
	PurposeL21                    // an L2.1 under its L2
	PurposeL3                     // an L3 under an L2.1
	PurposeDataKey                // a data key under a session of an L3
	PurposeData                   // a caller's data under a session of an L3
	PurposeInternalSecret         // a secret of the cluster itself under an IVK
	purposeEnd
)

// Purposes returns every valid purpose.
func Purposes() []Purpose {
	all := make([]Purpose, 0, purposeEnd-1)
	for p := PurposeUnspecified + 1; p < purposeEnd; p++ {
		all = append(all, p)
	}
	return all
}

// Valid reports whether p is one of the purposes.
func (p Purpose) Valid() bool { return p > PurposeUnspecified && p < purposeEnd }

// Wire returns the string that stands for p in derivations and associated
// data, or "" for an invalid purpose. The strings never change (I11).
func (p Purpose) Wire() string {
	switch p {
	case PurposeIVK:
		return "ivk-wrap"
	case PurposeL2Outer:
		return "l2-outer"
	case PurposeL1:
		return "l1-wrap"
	case PurposeL2Inner:
		return "l2-inner"
	case PurposeL21:
		return "l21-wrap"
	case PurposeL3:
		return "l3-wrap"
	case PurposeDataKey:
		return "dek-wrap"
	case PurposeData:
		return "data"
	case PurposeInternalSecret:
		return "internal-secret"
	case PurposeUnspecified, purposeEnd:
	}
	return ""
}

// String returns the wire string, or "invalid purpose".
func (p Purpose) String() string {
	if w := p.Wire(); w != "" {
		return w
	}
	return "invalid purpose"
}

// Labels of key derivation, the first part of every HKDF info (I11). Each is
// used with one kind of parent key only, and none is a prefix of another.
const (
	LabelCommit              = "krypton/v1/commit"               // commitment of an envelope
	LabelKey                 = "krypton/v1/key"                  // AES-256-GCM key of an envelope
	LabelIVKWrapping         = "krypton/v1/ivk-wrapping"         // MasterKey to the parent of IVK envelopes
	LabelFounding            = "krypton/v1/founding"             // parent of IVK envelopes to that of one founding
	LabelRegistryMAC         = "krypton/v1/registry-mac"         // MasterKey to the MAC key of snapshots and backups
	LabelBackup              = "krypton/v1/backup"               // MasterKey to the key that seals backup bodies
	LabelCarriedKeys         = "krypton/v1/carried-keys"         // MasterKey to the key that seals registry-MAC keys of earlier generations
	LabelMasterKeyCommitment = "krypton/v1/masterkey-commitment" // MasterKey to its public commitment
)
