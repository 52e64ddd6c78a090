package azureserver

import (
	"net/http"
	"strconv"
)

// serveLogin tells the metadata service, which speaks plain HTTP, from Entra ID.
func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	if r.TLS == nil {
		s.serveIMDS(w, r)
		return
	}
	s.serveEntra(w, r)
}

// serveIMDS answers as the instance metadata service of a machine with the
// managed identities that were added.
func (s *Server) serveIMDS(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code, text string) {
		writeJSON(w, status, map[string]string{"error": code, "error_description": text})
	}
	q := r.URL.Query()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/metadata/identity/oauth2/token":
		fail(http.StatusNotFound, "not_found", "There is no such resource.")
		return
	case r.Header.Get("Metadata") != "true" || r.Header.Get("X-Forwarded-For") != "":
		fail(http.StatusBadRequest, "bad_request", "Required metadata header not specified.")
		return
	case q.Get("api-version") != "2018-02-01":
		fail(http.StatusBadRequest, "bad_request", "The api-version is not supported.")
		return
	}
	if e := s.refused(); e != nil {
		fail(e.status, e.code, e.aadsts)
		return
	}
	id, ok := s.machine(q.Get("client_id"))
	if !ok {
		fail(http.StatusBadRequest, "invalid_request", "Identity not found")
		return
	}
	if q.Get("resource") != s.flavour.resource() {
		fail(http.StatusBadRequest, "invalid_resource", "AADSTS500011: The resource principal was not found in the tenant.")
		return
	}
	token, e := s.issue(id, q.Get("resource"))
	if e != nil {
		fail(e.status, e.code, e.aadsts)
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{
		"access_token": token, "client_id": id.ClientID, "resource": q.Get("resource"), "token_type": "Bearer",
		"expires_in": strconv.Itoa(int(s.lifetime.Seconds())), "expires_on": strconv.FormatInt(s.now().Add(s.lifetime).Unix(), 10),
	})
}

// machine returns the managed identity of that client id; the only one there
// is, if none is named.
func (s *Server) machine(client string) (*Identity, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *Identity
	n := 0
	for _, id := range s.identities {
		if id.managed && (client == "" || id.ClientID == client) {
			found = id
			n++
		}
	}
	return found, n == 1
}
