package situation

import "github.com/openkcm/krypton-cluster/internal/errs"

// doesNotOpen is a ciphertext or wrapped key that does not open. The cause is in
// the audit record only: whoever tries ciphertexts must not learn it.
func doesNotOpen(id, when string) Situation {
	return Situation{
		ID: id, When: when,
		Code: errs.Integrity,
		Says: "the ciphertext does not open",
		Next: "check service, resource and encryption context; they must be those it was made with",
	}
}

func ciphertexts() Group {
	return Group{Name: "ciphertext", Title: "Ciphertexts and wrapped keys", Rows: []Situation{
		doesNotOpen("ciphertext/empty", "the ciphertext or the wrapped key is empty"),
		doesNotOpen("ciphertext/not-one", "it is something else: other bytes, base64 that was not decoded"),
		doesNotOpen("ciphertext/truncated", "it was cut short"),
		doesNotOpen("ciphertext/extended", "something stands behind it"),
		doesNotOpen("ciphertext/too-long", "it is longer than anything that was ever made"),
		doesNotOpen("ciphertext/bit-flipped", "a bit of it changed"),
		doesNotOpen("ciphertext/of-another-tenant", "it was made for another tenant"),
		doesNotOpen("ciphertext/of-another-service", "it was made under another service"),
		doesNotOpen("ciphertext/of-another-resource", "it was made for another resource, or for one and none is given"),
		doesNotOpen("ciphertext/in-another-context", "it was made in another encryption context"),
		doesNotOpen("ciphertext/of-another-cluster", "it was made by another cluster"),
		doesNotOpen("ciphertext/of-a-recreated-tenant", "its tenant was destroyed, and there is a new one of that name"),
		doesNotOpen("ciphertext/of-a-recreated-service", "its service was destroyed, and there is a new one of that name"),
		doesNotOpen("ciphertext/wrapped-key-to-decrypt", "a wrapped key is given to decrypt, or a ciphertext to unwrap"),
		{
			ID: "ciphertext/version-disabled", When: "its key version is disabled",
			Code: errs.FailedState,
			Says: "key version {name} is disabled",
			Next: "enable it first",
		},
		{
			ID: "ciphertext/version-compromised", When: "its key version was marked as compromised",
			Code: errs.FailedState,
			Says: "key version {name} is or was compromised",
			Next: "rotate to a new version; what is under this one stays closed",
		},
		{
			ID: "ciphertext/version-destroy-scheduled", When: "its key version waits to be destroyed",
			Code: errs.FailedState,
			Says: "key version {name} is scheduled to be destroyed",
			Next: "cancel the destruction first",
		},
		{
			ID: "ciphertext/version-destroyed", When: "its key version is destroyed",
			Code: errs.FailedState,
			Says: "key version {name} is destroyed",
			Next: "its keys do not come back; use another one, or make it anew",
		},
		{
			ID: "ciphertext/service-suspended", When: "its service is suspended",
			Code: errs.FailedState,
			Says: "service {name} is suspended",
			Next: "resume it first",
		},
		{
			ID: "ciphertext/service-destroy-scheduled", When: "its service waits to be destroyed",
			Code: errs.FailedState,
			Says: "service {name} is scheduled to be destroyed",
			Next: "cancel the destruction first",
		},
		{
			ID: "ciphertext/service-destroyed", When: "its service is destroyed",
			Code: errs.FailedState,
			Says: "service {name} is destroyed",
			Next: "its keys do not come back; use another one, or make it anew",
		},
		{
			ID: "ciphertext/tenant-suspended", When: "its tenant is suspended",
			Code: errs.FailedState,
			Says: "tenant {name} is suspended",
			Next: "resume it first",
		},
		{
			ID: "ciphertext/tenant-destroy-scheduled", When: "its tenant waits to be destroyed",
			Code: errs.FailedState,
			Says: "tenant {name} is scheduled to be destroyed",
			Next: "cancel the destruction first",
		},
		{
			ID: "ciphertext/tenant-destroyed", When: "its tenant is destroyed",
			Code: errs.FailedState,
			Says: "tenant {name} is destroyed",
			Next: "its keys do not come back; use another one, or make it anew",
		},
		{
			ID: "ciphertext/version-deprecated", When: "its key version is deprecated",
			Outcome: "It opens. Rewrap wrapped keys, and encrypt data again, to move them to the primary version.",
		},
		{
			ID: "ciphertext/context-in-another-order", When: "the pairs of the encryption context come in another order",
			Outcome: "It opens: a context is a set of pairs.",
		},
	}}
}
