"""The container runtimes' side: the CNI protocol and what each verb does."""
