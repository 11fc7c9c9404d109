/** What a new conversation shows: a greeting, and questions to begin with. */

interface Props {
  examples: string[]
  loading: boolean
  onExample: (text: string) => void
}

export function Welcome({ examples, loading, onExample }: Props) {
  if (loading) return <div className="scroll" aria-busy="true" />
  return (
    <div className="scroll">
      <div className="welcome">
        <img src="/apricot.svg" alt="" width="56" height="56" />
        <h2>想了解什么健康问题？</h2>
        <p>写下症状、持续多久、用过什么药，回答会更有针对性。</p>
        <ul>
          {examples.map((example) => (
            <li key={example}>
              <button type="button" onClick={() => onExample(example)}>
                {example}
              </button>
            </li>
          ))}
        </ul>
      </div>
    </div>
  )
}
