"""The known ways in which vLLM fails: what its log says, and what we say to it.

A table and nothing else; `vllm_log` searches it. The patterns are the words of vLLM 0.32 and of what it uses, seen on
CPU or, where a GPU is needed, read in the source named beside them.
"""

from __future__ import annotations

from launcher.engines.causes import cause

# Reasons that end a start and never an engine that serves: there, only a request could have written such words.
ONLY_AT_START = frozenset(
    {"request", "environment", "model-files", "unsupported-model", "remote-code", "kv-cache", "address"}
)

# The first one found wins, wherever it stands: vLLM prints the root cause first and several tracebacks after it. So the
# order is from the particular to the general.
CAUSES = (
    # v1/core/kv_cache_utils.py
    cause(
        "kv-cache",
        r"max seq len \((?P<wanted>\d+)\), \((?P<needed>[\d.]+) GiB KV cache is needed"
        r".*?available KV cache memory \((?P<there>[\d.]+) GiB\)"
        r"(.*?estimated maximum model length is (?P<fits>\d+))?",
        says="a context of {wanted} tokens needs {needed} GiB of KV cache, and {there} GiB are free",
        hint="Try --max-model-len {fits}, or a profile with more GPU memory.",
    ),
    cause(
        "kv-cache",
        r"No available memory for the cache blocks",
        r"Cannot auto-fit max_model_len",
        says="the weights left no memory for the KV cache",
        hint="Choose a profile with more GPU memory, or raise --gpu-memory-utilization (0.95 at most).",
    ),
    # v1/worker/utils.py, v1/worker/gpu_worker.py, v1/worker/gpu_model_runner.py
    cause(
        "gpu-busy",
        r"Free memory on device (?P<device>\S+) \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup",
        says="only {free} of {total} GiB of memory of GPU {device} were free when it started",
        hint="Another process uses the GPU. Start again on another node, or lower --gpu-memory-utilization.",
    ),
    cause(
        "out-of-memory",
        r"CUDA out of memory occurred when warming up (sampler|pooler)",
        says="CUDA out of memory while warming up",
        hint="Try a lower --max-num-seqs or --gpu-memory-utilization 0.85, or a profile with more GPU memory.",
    ),
    cause(
        "out-of-memory",
        r"(CUDA|HIP) out of memory",
        r"torch\.OutOfMemoryError",
        r"CUDA error: out of memory",
        r"CUBLAS_STATUS_ALLOC_FAILED",
        says="CUDA out of memory",
        hint="Try a smaller --max-model-len or --max-num-seqs, or a profile with more GPU memory.",
    ),
    # v1/worker/cpu_worker.py
    cause(
        "out-of-memory",
        r"Available memory on node \d+ \((?P<free>[\d.]+)/[\d.]+ GiB\) on (startup|kv cache)"
        r"[^\n]{0,120}?(utilization\s+\([\d.]+, |for kv\s+\()(?P<wanted>[\d.]+)",
        says="it wants {wanted} GiB of the node's memory, and {free} GiB are free",
        hint="Set --kv-cache-memory-bytes (for example 2G), or choose a profile with more memory.",
    ),
    cause(
        "out-of-memory",
        r"DefaultCPUAllocator: (can't allocate|not enough) memory",
        r"\bMemoryError\b",
        r"Cannot allocate memory",
        says="the node's memory did not suffice",
        hint="Choose a profile with more memory.",
    ),
    cause(
        "storage",
        r"No space left on device",
        r"Disk quota exceeded",
        says="a disk it writes to is full (cache, temporary files or shared memory)",
        hint="Free space in the cache folder, or ask the site for another one.",
    ),
    # config/model.py, config/parallel.py
    cause(
        "request",
        r"attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size \((?P<tp>\d+)\)",
        says="the model's {heads} attention heads cannot be split over {tp} GPUs",
        hint="Choose a --tensor-parallel-size that divides {heads}.",
    ),
    cause(
        "request",
        r"World size \((?P<world>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        says="it was told to use {world} GPUs, and the job has {gpus}",
        hint="Choose a profile with {world} GPUs, or a smaller --tensor-parallel-size.",
    ),
    cause(
        "request",
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len "
        r"\(\w+=(?P<most>\d+)",
        says="--max-model-len {asked} is more than the model's own {most}",
        hint="Use --max-model-len {most} or less.",
    ),
    # platforms/cuda.py, torch
    cause(
        "hardware",
        r"Bfloat16 is only supported on GPUs with compute capability[^\n]*? Your (?P<gpu>.+?) GPU",
        says="the model's bfloat16 weights do not run on {gpu}",
        hint="Try --dtype half, or a profile with a newer GPU.",
    ),
    cause(
        "hardware",
        r"quantization method \S+ is not supported for the current GPU",
        r"no kernel image is available",
        r"CUDA error: invalid device function",
        r"PTX was compiled with an unsupported toolchain",
        says="this GPU cannot run what the model or this build of vLLM needs",
        hint="Choose a profile with a newer GPU, or another environment.",
    ),
    cause(
        "no-gpu",
        r"(Permission denied|Insufficient Permissions)[^\n]*/dev/(nvidia|kfd|dri)",
        r"/dev/(nvidia|kfd|dri)[^\n]*Permission denied",
        r"NVML[^\n]*Insufficient Permissions",
        says="it may not use the node's GPUs",
        hint="Ask the site: the job has no access to the GPU devices.",
    ),
    cause(
        "no-gpu",
        r"Failed to infer device type",
        r"No CUDA GPUs are available",
        r"Found no NVIDIA driver",
        r"libcuda\.so\.1: cannot open",
        r"NVML Shared Library Not Found",
        r"CUDA error: no CUDA-capable device",
        says="it found no GPU",
        hint="Choose a profile with a GPU. If the job has one, ask the site: the environment does not see it.",
    ),
    cause(
        "gpu-fault",
        r"CUDA error: (?P<what>[a-z][^\n]{3,60})",
        r"(?P<what2>uncorrectable ECC error)",
        says="a GPU reported an error ({what})",
        hint="Start again; if it happens on the same node, tell the site its name.",
    ),
    cause(
        "network",
        r"NCCL error|nccl(System|UnhandledCuda|Remote|Internal)Error",
        r"Watchdog caught collective operation timeout",
        r"DistStoreError|The client socket has (timed out|failed)",
        r"Gloo connectFullMesh failed",
        says="its processes could not talk to each other (NCCL or Gloo)",
        hint="Start again; if it happens again, try one GPU or one node, or show the log to the site.",
    ),
    # model_executor/models/registry.py, transformers_utils/config.py, transformers
    cause(
        "unsupported-model",
        r"Model architectures \['?(?P<arch>[^\]']+)'?\] (are not supported for now|failed to be inspected)",
        r"Model architecture (?P<arch2>\S+) is not supported",
        says="this vLLM does not know the model's architecture {arch}",
        hint="Choose an environment with a newer vLLM, or another model.",
    ),
    cause(
        "remote-code",
        r"trust_remote_code=True",
        r"requires you to execute the (configuration file|code)",
        r"contains custom code which must be",
        says="the model brings Python code of its own, which is not run",
        hint="Choose another model, or add --trust-remote-code where the site allows it.",
    ),
    cause(
        "unsupported-model",
        r"model type `(?P<arch>[^`\n]+)` but Transformers does not recognize",
        r"Unrecognized model in",
        says="this vLLM does not know the model's type {arch}",
        hint="Choose an environment with a newer vLLM, or another model.",
    ),
    cause(
        "unsupported-model",
        r"[Hh]ead[_ ](size|dim)[^\d\n]{0,12}(?P<size>\d+) is not supported",
        r"Unsupported (CPU attention )?head[_ ](dim|size)[^\d\n]{0,12}(?P<size2>\d+)",
        says="its attention has no code for heads of size {size} on this hardware",
        hint="Choose another model or profile.",
    ),
    # model_executor/model_loader, safetensors, transformers
    cause(
        "model-files",
        r"Cannot find any model weights with",
        r"Weight files referenced in index but missing",
        r"No such file or directory: ['\"]?[^'\"\n]+\.(safetensors|bin|gguf)",
        says="weights are missing in the model's folder",
        hint="Download the model again.",
    ),
    cause(
        "model-files",
        r"SafetensorError|Error while deserializing header|MetadataIncompleteBuffer",
        r"invalid load key|PytorchStreamReader failed",
        r"weights were not initialized from checkpoint",
        says="a file of weights is damaged or incomplete",
        hint="Download the model again.",
    ),
    cause(
        "model-files",
        r"Couldn't instantiate the backend tokenizer",
        r"Can't load tokenizer for",
        r"tokenizer\.json[^\n]*(not found|No such file)",
        says="the model's tokenizer is missing or damaged",
        hint="Download the model again, or name another with --tokenizer PATH.",
    ),
    cause(
        "model-files",
        r"Can't load the configuration of",
        r"does not appear to have a file named config\.json",
        r"Invalid repository ID or local directory",
        r"Repo id must (be in the form|use alphanumeric)",
        says="the model's folder does not exist there or has no config.json",
        hint="Check the path, or download the model again.",
    ),
    # entrypoints, renderers/hf.py
    cause(
        "request",
        r"The supplied chat template",
        r"chat template[^\n]{0,80}appears path-like, but doesn't exist",
        r"jinja2\.exceptions\.TemplateSyntaxError",
        says="the chat template is missing or wrong",
        hint="Give --chat-template the path of a Jinja file that compute nodes can read.",
    ),
    cause(
        "request",
        r"Cannot find the config file for \w+",
        r"Quantization method specified in the model config \(\S+\) does not",
        says="--quantization does not match the model's weights",
        hint="Leave --quantization out: vLLM reads it from the model.",
    ),
    cause(
        "address",
        r"Address already in use|EADDRINUSE",
        r"AF_UNIX path too long",
        says="the socket or port it wanted is taken or has too long a name",
        hint="Start again.",
    ),
    # argparse
    cause(
        "request",
        r"error: (?P<what>(unrecognized arguments|argument|ambiguous option|the following arguments)[^\n]{0,160})",
        says="it refused its arguments: {what}",
        hint="See `vllm serve --help=all` for the options of this vLLM.",
    ),
    cause(
        "environment",
        r"(ModuleNotFoundError|ImportError|PackageNotFoundError): (?P<what>[^\n]{1,160})",
        r"(?P<what2>operator torchvision::nms does not exist)",
        says="its Python environment is broken ({what})",
        hint="Choose another environment, or show the log to the site.",
    ),
)
