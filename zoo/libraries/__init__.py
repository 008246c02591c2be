"""The seam: the only code that uses internals of the libraries underneath.

    reliance.py      what zoo relies on, each claim with a check that it still holds; the error if it does not
    tiny.py          the model for the checks
    releases.py      which versions are installed, allowed, and tested
    caches.py        transformers: caches of keys and values, and the forwards that fill them
    attention.py     transformers: attention functions and masks
    architecture.py  transformers: the parts of a model: backbone, heads, what its configuration says
    pretrained.py    transformers: loading, saving, GGUF, chat templates
    stored.py        transformers: models whose weights stay in their files until processes read their parts
    tokenizing.py    transformers: the fast tokenizer inside a tokenizer
    vocabulary.py    transformers: rows of the vocabulary, and more of them
    optimizers.py    transformers, bitsandbytes: optimizers
    adapters.py      peft: LoRA around a model, and the model inside
    second_adapter.py  peft: what a policy started from, as a frozen adapter beside the trained one
    pissa.py         peft: adapters that begin as the principal parts of their matrices
    whole_modules.py  peft: modules that are trained as a whole beside LoRA
    trainer.py       lightning: the Trainer, its strategy, checkpoints and loggers
    cluster.py       lightning: which process of a run this one is
    peers.py         torch, lightning: the other processes of a run, from their meeting to the end that all wait for
    meeting.py       lightning: its DDP strategy, and the start of the other processes
    connected.py     lightning: processes that connect before anything is loaded, and its strategy for sharded models
    sharding.py      torch: FSDP2, models shared out among the processes
    tensor_parallel.py  transformers, torch: linear layers cut among the processes
    scattered.py     safetensors: tensors whose parts are in the files of several processes
    streamed.py      safetensors: files written one tensor after the other
    turns.py         torch: forward passes that all processes make together
    precision.py     lightning: the precision of a run
    tables.py        datasets: saved folders and tables
    columns.py       pyarrow: columns in memory-mapped files
    hub.py           huggingface_hub: what exists, what is cached, being offline
    arithmetic.py    torch: functions without a public name

A test lists what the rest of zoo may import of these libraries.
"""
