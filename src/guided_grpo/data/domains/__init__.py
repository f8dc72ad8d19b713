"""Problems that are generated, with traces and exact answers: what the embedded policies learn."""
