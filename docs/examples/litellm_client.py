"""Ask a session through LiteLLM: OPENAI_BASE_URL and OPENAI_API_KEY say where, the argument is the model's name."""

import os
import sys

import litellm

response = litellm.completion(
    model=f"openai/{sys.argv[1]}",  # "openai/" means: whatever speaks OpenAI's API
    api_base=os.environ["OPENAI_BASE_URL"],
    api_key=os.environ["OPENAI_API_KEY"],
    messages=[{"role": "user", "content": "What is the capital of France?"}],
)
print(response.choices[0].message.content)
