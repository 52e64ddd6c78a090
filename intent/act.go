package intent

// Act is what an intent orders. Its numbers are signed and stored and must
// never change; the number of a retired act stays as a comment. Zero is invalid.
type Act uint16

// The sovereign acts.
const (
	ActUnspecified       Act = 0
	ActGenesis           Act = 1  // the first entry of a keyspace
	ActSetPolicy         Act = 2  // create, change or remove a policy
	ActBindRole          Act = 3  // give or take a role
	ActSetAuthorityKeys  Act = 4  // register or remove personal keys
	ActBindL1            Act = 5  // bind a tenant to a customer key for the first time
	ActRebindL1          Act = 6  // bind a tenant to another customer key
	ActResumeAfterUnlink Act = 7  // give a tenant back after an unlink
	ActDestroy           Act = 8  // destroy a version, service or tenant
	ActRecoveryGrant     Act = 9  // allow unwrap under a compromised version for re-encryption
	ActAddMember         Act = 10 // admit a voter
	ActReshare           Act = 11 // new shares of the MasterKey
	ActRekey             Act = 12 // a new MasterKey
	ActMigrate           Act = 13 // another way to seal the MasterKey
	ActRestore           Act = 14 // restore from a snapshot or backup
	ActSetAudit          Act = 15 // change audit settings
	ActSetQuorum         Act = 16 // change how many signatures acts need
	ActSetIssuer         Act = 17 // register, change or remove who vouches for callers
	actEnd               Act = 18 // one past the last act; not an act
)

// Valid reports whether a is one of the acts.
func (a Act) Valid() bool { return a > ActUnspecified && a < actEnd }

// Acts returns every act in order of its number.
func Acts() []Act {
	all := make([]Act, 0, actEnd-1)
	for a := ActUnspecified + 1; a < actEnd; a++ {
		all = append(all, a)
	}
	return all
}

// String returns the name of the act as command lines and audit records write it.
func (a Act) String() string {
	switch a {
	case ActGenesis:
		return "genesis"
	case ActSetPolicy:
		return "set-policy"
	case ActBindRole:
		return "bind-role"
	case ActSetAuthorityKeys:
		return "set-authority-keys"
	case ActBindL1:
		return "bind-l1"
	case ActRebindL1:
		return "rebind-l1"
	case ActResumeAfterUnlink:
		return "resume-after-unlink"
	case ActDestroy:
		return "destroy"
	case ActRecoveryGrant:
		return "recovery-grant"
	case ActAddMember:
		return "add-member"
	case ActReshare:
		return "reshare"
	case ActRekey:
		return "rekey"
	case ActMigrate:
		return "migrate"
	case ActRestore:
		return "restore"
	case ActSetAudit:
		return "set-audit"
	case ActSetQuorum:
		return "set-quorum"
	case ActSetIssuer:
		return "set-issuer"
	case ActUnspecified, actEnd:
	}
	return "unspecified"
}
