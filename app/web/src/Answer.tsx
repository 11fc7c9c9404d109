/** An answer: its text as it comes, what became of it, and what its reader thinks of it. */

import { DislikeFilled, DislikeOutlined, FormOutlined, LikeFilled, LikeOutlined, ReloadOutlined } from '@ant-design/icons'
import { Bubble } from '@ant-design/x'
import { Button, Modal } from 'antd'
import { memo, useState } from 'react'
import type { Message } from './api'
import { Branches } from './Branches'
import { CopyButton } from './CopyButton'
import { Grow } from './Grow'
import { Markdown } from './Markdown'
import { useLive } from './stream'
import { STATES } from './words'

export interface AnswerActions {
  again: (answer: Message) => void
  rate: (answer: Message, feedback: { liked?: boolean | null; correction?: string | null }) => void
}

interface Props {
  answer: Message
  siblings: Message[]
  busy: boolean
  followed?: boolean // of several side by side, the one that the next question follows; undefined where it is alone
  limit: number
  actions: AnswerActions
  onChoose: (message: Message) => void
  onFollow: () => void
}

const Text = memo(Markdown)

export function Answer({ answer, siblings, busy, followed, limit, actions, onChoose, onFollow }: Props) {
  const live = useLive(answer.id)
  const isRunning = answer.state === 'running'
  const original = isRunning && live.length >= answer.content.length ? live : answer.content
  const [showsOriginal, setShowsOriginal] = useState(false)
  const [correcting, setCorrecting] = useState(false)
  const corrected = answer.correction !== null
  const text = corrected && !showsOriginal ? answer.correction! : original
  const trouble = answer.error || STATES[answer.state]

  const header = (
    <div className="labels">
      {followed !== undefined && <strong>{answer.model.split('@')[0]}</strong>}
      <span className="mark plain" title={`模型 ${answer.model}`}>
        AI 生成
      </span>
      {corrected && <span className="mark">已改正</span>}
      {corrected && (
        <Button type="link" size="small" onClick={() => setShowsOriginal(!showsOriginal)}>
          {showsOriginal ? '看改正后的回答' : '看原来的回答'}
        </Button>
      )}
      {answer.dropped > 0 && <span className="quiet">更早的 {answer.dropped} 条消息太长，模型没有读到</span>}
    </div>
  )

  const footer = !isRunning && (
    <>
      {trouble && (
        <p className={answer.state === 'failed' || answer.state === 'lost' ? 'state error' : 'state'}>
          {trouble}
          {(answer.state === 'failed' || answer.state === 'lost') && (
            <Button size="small" icon={<ReloadOutlined aria-hidden />} disabled={busy} onClick={() => actions.again(answer)}>
              重新回答
            </Button>
          )}
        </p>
      )}
      <div className="actions">
        <Branches name="回答" shown={answer} siblings={siblings} onChoose={onChoose} />
        <CopyButton text={text} />
        <Rate answer={answer} liked onRate={actions.rate} />
        <Rate answer={answer} liked={false} onRate={actions.rate} />
        <Button type="text" size="small" icon={<FormOutlined aria-hidden />} aria-label="改正回答" title="改正回答" onClick={() => setCorrecting(true)} />
        <Button
          type="text"
          size="small"
          icon={<ReloadOutlined aria-hidden />}
          aria-label="重新回答"
          title="重新回答"
          disabled={busy}
          onClick={() => actions.again(answer)}
        />
        {followed !== undefined && (
          <Button type={followed ? 'primary' : 'default'} size="small" aria-pressed={followed} onClick={onFollow}>
            {followed ? '接着这个问' : '改为接着这个问'}
          </Button>
        )}
      </div>
    </>
  )

  return (
    <article className="answer" aria-label="回答" aria-busy={isRunning}>
      <Bubble
        variant="borderless"
        content={text}
        contentRender={(content) => (content ? <Text text={content} /> : isRunning ? <Typing /> : null)}
        header={header}
        footer={footer}
      />
      {correcting && <Correction {...{ answer, limit }} onRate={actions.rate} onClose={() => setCorrecting(false)} />}
    </article>
  )
}

function Typing() {
  return (
    <span className="typing" role="img" aria-label="正在想">
      <i />
      <i />
      <i />
    </span>
  )
}

function Rate({ answer, liked, onRate }: { answer: Message; liked: boolean; onRate: AnswerActions['rate'] }) {
  const pressed = answer.liked === liked
  const [Filled, Outlined] = liked ? [LikeFilled, LikeOutlined] : [DislikeFilled, DislikeOutlined]
  return (
    <Button
      type="text"
      size="small"
      className={pressed ? 'pressed' : ''}
      icon={pressed ? <Filled aria-hidden /> : <Outlined aria-hidden />}
      aria-label={liked ? '有用' : '没用'}
      title={liked ? '有用' : '没用'}
      aria-pressed={pressed}
      onClick={() => onRate(answer, { liked: pressed ? null : liked })}
    />
  )
}

interface CorrectionProps {
  answer: Message
  limit: number
  onRate: AnswerActions['rate']
  onClose: () => void
}

function Correction({ answer, limit, onRate, onClose }: CorrectionProps) {
  const [text, setText] = useState(answer.correction ?? answer.content)
  const save = (correction: string | null) => {
    onRate(answer, { correction })
    onClose()
  }
  return (
    <Modal
      open
      title="改正回答"
      onCancel={onClose}
      footer={
        <>
          {answer.correction !== null && (
            <Button danger onClick={() => save(null)}>
              撤销改正
            </Button>
          )}
          <Button onClick={onClose}>取消</Button>
          <Button type="primary" disabled={!text.trim() || text.length > limit} onClick={() => save(text)}>
            保存改正
          </Button>
        </>
      }
    >
      <p className="quiet">写下您认为正确的回答。原来的回答会保留，两者都看得到。</p>
      <Grow aria-label="您认为正确的回答" value={text} onChange={(event) => setText(event.target.value)} />
    </Modal>
  )
}
