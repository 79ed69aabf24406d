"""Independent routes for small vocabularies: subset enumeration, linear programmes, maximum flow."""
