"""One file for each method; each exports `make(classes_t, *, <hyper-parameters>) -> Method`."""
